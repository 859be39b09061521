"""Commands about the machine: its devices, chardevs and objects, its run state and its shutdown."""

from __future__ import annotations

from typing import Any

import msgspec

from vnic.chardev.qapi import ChardevInfo
from vnic.monitor.commands.table import Caller, command
from vnic.monitor.interfaces import (
    MonitoredMachine,
    RunState,
    ShutdownCause,
    VnicInfo,
)
from vnic.monitor.schema import chardev_backend, device_options, object_options
from vnic.monitor.schema.shapes import (
    Builtin,
    Member,
    Object,
    Shape,
)
from vnic.net import qom


class NameInfo(msgspec.Struct, omit_defaults=True):
    name: str | None = None


@command("query-name")
def query_name(caller: Caller) -> NameInfo:
    return NameInfo(caller.machine.name)


class StatusInfo(msgspec.Struct):
    running: bool
    status: RunState


@command("query-status")
def query_status(caller: Caller) -> StatusInfo:
    state = caller.machine.runstate
    return StatusInfo(state is RunState.RUNNING, state)


@command("query-vnic")
def query_vnic(caller: Caller) -> VnicInfo:
    """The state of the process: uptime, lag of its loop, memory, descriptors."""
    return caller.machine.vnic_info()


@command("stop")
def stop(caller: Caller) -> None:
    caller.machine.stop()


@command("cont")
def cont(caller: Caller) -> None:
    caller.machine.cont()


@command("quit")
def quit_(caller: Caller) -> None:
    """Shut down in order; this reply and the SHUTDOWN event are still sent."""
    caller.machine.quit(ShutdownCause.HOST_QMP_QUIT)


# -- devices ----------------------------------------------------------------------------------------------------


def _device(machine: MonitoredMachine) -> Shape:
    return device_options(machine.device_types, machine.devices_not_built)


@command("device_add", arguments=_device)
def device_add(caller: Caller, args: msgspec.Struct) -> None:
    caller.machine.paths.check("device", args)
    caller.machine.device_add(args, caller.who)


class Id(msgspec.Struct):
    id: str


@command("device_del")
def device_del(caller: Caller, args: Id) -> None:
    """Remove a NIC; DEVICE_DELETED follows when it is removed."""
    caller.machine.device_del(args.id, caller.who)


# -- chardevs ---------------------------------------------------------------------------------------------------


@command("query-chardev", returns=list[ChardevInfo])
def query_chardev(caller: Caller) -> list[ChardevInfo]:
    return list(caller.machine.chardevs())


class ChardevAdd(msgspec.Struct):
    id: str
    backend: msgspec.Struct


def _chardev(machine: MonitoredMachine) -> Shape:
    backend = Member("backend", "backend", chardev_backend(machine.chardev_types), True)
    return Object(ChardevAdd, (Member("id", "id", Builtin("str"), True), backend))


class ChardevReturn(msgspec.Struct, omit_defaults=True):
    pty: str | None = None


@command("chardev-add", arguments=_chardev)
def chardev_add(caller: Caller, args: ChardevAdd) -> ChardevReturn:
    caller.machine.paths.check("chardev", args.backend)
    caller.machine.chardev_add(args.id, args.backend)
    return ChardevReturn()


@command("chardev-remove")
def chardev_remove(caller: Caller, args: Id) -> None:
    caller.machine.chardev_remove(args.id)


# -- objects ----------------------------------------------------------------------------------------------------


def _object(machine: MonitoredMachine) -> Shape:
    return object_options(machine.object_types)


@command("object-add", arguments=_object)
def object_add(caller: Caller, args: msgspec.Struct) -> None:
    caller.machine.paths.check("object", args)
    caller.machine.object_add(args, caller.who)


@command("object-del")
def object_del(caller: Caller, args: Id) -> None:
    caller.machine.object_del(args.id, caller.who)


class QomProperty(msgspec.Struct):
    path: str
    property: str


@command("qom-get", returns=Any)
def qom_get(caller: Caller, args: QomProperty) -> object:
    """A property of a filter (qapi/qom.json)."""
    return qom.get(caller.machine.network, args.path, args.property)


class QomSet(QomProperty):
    value: Any


@command("qom-set")
def qom_set(caller: Caller, args: QomSet) -> None:
    """Switch a filter on or off by its `status`, or change an impairment."""
    qom.set_(caller.machine.network, args.path, args.property, args.value, caller.who)


class QomPath(msgspec.Struct):
    path: str


class ObjectPropertyInfo(msgspec.Struct):
    name: str
    type: str


@command("qom-list")
def qom_list(caller: Caller, args: QomPath) -> list[ObjectPropertyInfo]:
    """The properties of a filter, or the filters of `/objects`."""
    return [ObjectPropertyInfo(*each) for each in qom.list_(caller.machine.network, args.path)]

"""Commands that identify this QEMU's features: libvirt's probes, types and their properties, command-line options.

libvirt calls them (its qemu_capabilities.c). There is no VM, so answers about one are those of a QEMU with `-machine
none`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from vnic.monitor.commands.table import Caller, command
from vnic.monitor.interfaces import MonitoredMachine, PciInfo
from vnic.monitor.schema.shapes import (
    Array,
    Builtin,
    Enumeration,
    Integer,
    Object,
    Shape,
    object_of,
)
from vnic.net.errors import DEVICE_NOT_FOUND, DeviceNotFound, NetError


class TargetInfo(msgspec.Struct):
    arch: str


@command("query-target")
def query_target(caller: Caller) -> TargetInfo:
    return TargetInfo(platform.machine())


class KvmInfo(msgspec.Struct):
    enabled: bool = False
    present: bool = False


@command("query-kvm")
def query_kvm(caller: Caller) -> KvmInfo:
    """vnic has no processor that KVM could run."""
    return KvmInfo()


class UuidInfo(msgspec.Struct):
    uuid: str = msgspec.field(name="UUID", default="00000000-0000-0000-0000-000000000000")


@command("query-uuid")
def query_uuid(caller: Caller) -> UuidInfo:
    return UuidInfo()


class MachineInfo(msgspec.Struct, rename="kebab"):
    name: str
    cpu_max: int
    hotpluggable_cpus: bool
    numa_mem_supported: bool
    deprecated: bool
    acpi: bool
    default_ram_id: str | None = None


@command("query-machines")
def query_machines(caller: Caller) -> list[MachineInfo]:
    """The only machine: QEMU's `none`."""
    return [MachineInfo("none", 1, False, False, False, False, "ram")]


class CurrentMachineParams(msgspec.Struct, rename="kebab"):
    wakeup_suspend_support: bool = False


@command("query-current-machine")
def query_current_machine(caller: Caller) -> CurrentMachineParams:
    return CurrentMachineParams()


@command("query-pci")
def query_pci(caller: Caller) -> list[PciInfo]:
    """The NICs that are PCI functions, on one bus; the VM may place them elsewhere."""
    return caller.machine.pci_info()


class HumanReadableText(msgspec.Struct, rename="kebab"):
    human_readable_text: str


@command("x-query-network")
def x_query_network(caller: Caller) -> HumanReadableText:
    """The text of HMP's `info network`."""
    return HumanReadableText("".join(caller.machine.topology().info_network()))


@command("system_reset")
def system_reset(caller: Caller) -> None:
    """Emit RESET only: the VM resets the devices that it contains."""
    caller.machine.network.emit("RESET", {"guest": False, "reason": "host-qmp-system-reset"})


# -- types ----------------------------------------------------------------------------------------------------------


class ObjectTypeInfo(msgspec.Struct, omit_defaults=True):
    name: str
    abstract: bool = False
    parent: str | None = None


def _types(machine: MonitoredMachine) -> dict[str, ObjectTypeInfo]:
    """The types that can be created, and their base types, with QEMU's names."""
    made = [ObjectTypeInfo("object"), ObjectTypeInfo("device", True, "object")]
    made.append(ObjectTypeInfo("netfilter", True, "object"))
    made += [ObjectTypeInfo(name, parent="device") for name in machine.device_types]
    made += [ObjectTypeInfo(name, parent="netfilter") for name in machine.object_types]
    return {info.name: info for info in made}


class QomListTypes(msgspec.Struct):
    implements: str | None = None
    abstract: bool | None = None


@command("qom-list-types")
def qom_list_types(caller: Caller, args: QomListTypes) -> list[ObjectTypeInfo]:
    types = _types(caller.machine)

    def ancestry(name: str | None) -> Iterator[str]:
        while name is not None:
            yield name
            name = types[name].parent

    return [
        info
        for info in types.values()
        if (args.abstract or not info.abstract)
        and (args.implements is None or args.implements in ancestry(info.name))
    ]


class Typename(msgspec.Struct):
    typename: str


class ObjectPropertyInfo(msgspec.Struct, rename="kebab", omit_defaults=True):
    name: str
    type: str
    default_value: Any = None


@command("device-list-properties")
def device_list_properties(caller: Caller, args: Typename) -> list[ObjectPropertyInfo]:
    """The properties of a NIC (qom/qom-qmp-cmds.c)."""
    types = _types(caller.machine)
    if args.typename not in types:
        raise DeviceNotFound(args.typename)
    if args.typename not in caller.machine.device_types:
        raise NetError("Parameter 'typename' expects a non-abstract device type")
    return _properties(caller.machine.device_types[args.typename])


@command("qom-list-properties")
def qom_list_properties(caller: Caller, args: Typename) -> list[ObjectPropertyInfo]:
    """The properties of a NIC or a filter."""
    if args.typename not in _types(caller.machine):
        raise NetError(f"Class '{args.typename}' not found", DEVICE_NOT_FOUND)
    found = {**caller.machine.device_types, **caller.machine.object_types}.get(args.typename)
    return [ObjectPropertyInfo("type", "string"), *(_properties(found) if found is not None else ())]


def _properties(struct: type[msgspec.Struct]) -> list[ObjectPropertyInfo]:
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(struct)}
    return [
        ObjectPropertyInfo(member.name, _type(member.shape), _plain(defaults.get(member.name)))
        for member in object_of(struct).members
    ]


def _plain(default: object) -> object:
    return default if isinstance(default, bool | int | str) else None


def _type(shape: Shape) -> str:
    match shape:
        case Builtin(name):
            return name
        case Integer():
            return (shape.name or "int64").removesuffix("_t")
        case Enumeration():
            return "str"
        case Array():
            return "list"
    return "object"


# -- the command line -----------------------------------------------------------------------------------------------


class CommandLineParameterInfo(msgspec.Struct):
    name: str
    type: Literal["string", "boolean", "number", "size"]


class CommandLineOptionInfo(msgspec.Struct):
    option: str
    parameters: list[CommandLineParameterInfo]


_FIXED: Mapping[str, Mapping[str, Literal["string", "boolean"]]] = {
    "name": {"guest": "string", "debug-threads": "boolean"},
    "mon": {"chardev": "string", "mode": "string", "pretty": "boolean", "policy": "string"},
    # QEMU lists no parameters of these either, because they depend on the type.
    "netdev": {},
    "device": {},
    "object": {},
}


class QueryCommandLineOptions(msgspec.Struct):
    option: str | None = None


@command("query-command-line-options")
def query_command_line_options(caller: Caller, args: QueryCommandLineOptions) -> list[CommandLineOptionInfo]:
    """The options that have keys (util/qemu-config.c)."""
    options: dict[str, list[CommandLineParameterInfo]] = {
        name: [CommandLineParameterInfo(key, kind) for key, kind in keys.items()]
        for name, keys in _FIXED.items()
    }
    options["chardev"] = _chardev_parameters(caller.machine)
    if args.option is not None and args.option not in options:
        raise NetError(f"invalid option name: {args.option}")
    return [
        CommandLineOptionInfo(name, parameters)
        for name, parameters in options.items()
        if args.option in (None, name)
    ]


def _chardev_parameters(machine: MonitoredMachine) -> list[CommandLineParameterInfo]:
    found = {
        "id": CommandLineParameterInfo("id", "string"),
        "backend": CommandLineParameterInfo("backend", "string"),
    }
    for struct in machine.chardev_types.values():
        for member in object_of(struct).members:
            match member.shape:
                case Builtin("bool"):
                    found[member.name] = CommandLineParameterInfo(member.name, "boolean")
                case Integer():
                    found[member.name] = CommandLineParameterInfo(member.name, "number")
                case Object() | Array():
                    continue
                case _:
                    found[member.name] = CommandLineParameterInfo(member.name, "string")
    return list(found.values())

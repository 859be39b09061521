"""OBJECTS: each type of `-object`, its options and its constructor. The command line and object-add use it.

The other types of QEMU belong to the VM, or need parts that vnic does not have. They are refused by name, with the text
of a QEMU that is built without them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from vnic.adopt.domain.options import LibvirtOptions
from vnic.adopt.options import QemuOptions
from vnic.backend.base import BackendContext
from vnic.backend.items import Kind
from vnic.filter import options as o
from vnic.follow.options import LinkFollowOptions
from vnic.net.errors import NetError
from vnic.net.filter_set import add_filter, find_filter
from vnic.net.filters import Filter
from vnic.net.objects import NetObject, ObjectOptions, check_new_id
from vnic.net.records import VNIC


@dataclass(frozen=True, slots=True)
class ObjectType:
    """A row of the registry."""

    options: type[ObjectOptions]
    desc: str
    """One line for `-object help`."""
    create: Callable[[BackendContext, Any], Filter | NetObject]
    """Makes the object from the context and an instance of `options`. It opens nothing before `setup`."""


def _row(
    name: str, options: type[ObjectOptions], desc: str, made_by: str, package: str = "filter"
) -> tuple[str, ObjectType]:
    module, _, attribute = made_by.partition(":")

    def create(context: BackendContext, given: Any) -> Filter | NetObject:
        maker = getattr(importlib.import_module(f"vnic.{package}.{module}"), attribute)
        made = cast("Filter | NetObject", maker(context, given))
        if isinstance(made, Filter):
            made.keep = context.keep
        return made

    return name, ObjectType(options, desc, create)


OBJECTS: dict[str, ObjectType] = dict(
    (
        _row(
            "filter-buffer", o.BufferOptions, "holds frames back until the next tick", "buffer:BufferFilter"
        ),
        _row("filter-dump", o.DumpOptions, "writes frames to a pcap file", "dump:DumpFilter"),
        _row("filter-mirror", o.MirrorOptions, "copies frames to a chardev", "mirror:MirrorFilter"),
        _row(
            "filter-redirector",
            o.RedirectorOptions,
            "sends frames away to a chardev, takes others from one",
            "mirror:RedirectorFilter",
        ),
        _row(
            "filter-replay",
            o.ReplayOptions,
            "lets all frames pass: vnic records nothing",
            "replay:ReplayFilter",
        ),
        _row("netem", o.NetemOptions, "delays, loses and changes frames, as tc's netem", "netem:Netem"),
        _row(
            "link-follow",
            LinkFollowOptions,
            "a NIC's link follows an interface of this host, or another wire",
            "link_follow:LinkFollow",
            package="follow",
        ),
        _row("libvirt", LibvirtOptions, "a VM that libvirt manages", "domain.vm:make", package="adopt"),
        _row("qemu", QemuOptions, "a VM that runs, by its QMP socket", "qemu:make", package="adopt"),
    )
)
"""By the value of `qom-type`."""


def object_structs() -> Mapping[str, type[ObjectOptions]]:
    """The properties Struct of each type, which the monitor checks arguments against."""
    return {name: entry.options for name, entry in OBJECTS.items()}


def object_add(context: BackendContext, options: ObjectOptions, by: str = VNIC) -> None:
    """object-add, for `by`. After a NetError nothing remains."""
    new = OBJECTS[str(options.__struct_config__.tag)].create(context, options)
    if isinstance(new, Filter):
        add_filter(context.network, new, new.setup_kept)
        keep_item(context, new, by)
        new.added(by)
    else:
        check_new_id(options.id, find_filter(context.network, options.id) is not None)
        context.network.objects.add(new)
        new.item = context.items.added(Kind.OBJECT, new.id, lambda: options, by)


def keep_item(context: BackendContext, new: Filter, by: str, fault: str | None = None) -> None:
    """A filter was added; `fault`: as a fault of that shape."""

    def options() -> ObjectOptions:
        return cast(ObjectOptions, new.options)

    new.item = context.items.added(Kind.OBJECT, new.id, options, by, fault=fault)


def object_del(context: BackendContext, object_id: str, by: str = VNIC) -> None:
    """object-del, for `by`."""
    if (filter_ := find_filter(context.network, object_id)) is not None:
        filter_.remove()
        filter_.deleted(by)
    elif (found := context.network.objects.find(object_id)) is not None:
        context.network.objects.remove(found)
    else:
        raise NetError(f"object '{object_id}' not found")

"""OBJECTS: each type of `-object`, its options and its constructor. The command line and object-add use it.

The other types of QEMU belong to the VM, or need parts that vnic does not have. They are refused by name, with the text
of a QEMU that is built without them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from vnic.backend.base import BackendContext
from vnic.filter import options as o
from vnic.net.errors import NetError
from vnic.net.filter_set import add_filter, find_filter
from vnic.net.filters import Filter


@dataclass(frozen=True, slots=True)
class ObjectType:
    """A row of the registry."""

    options: type[o.NetFilterOptions]
    desc: str
    """One line for `-object help`."""
    create: Callable[[BackendContext, Any], Filter]
    """Makes the filter from the context and an instance of `options`. It opens nothing before `setup`."""


def _row(name: str, options: type[o.NetFilterOptions], desc: str, made_by: str) -> tuple[str, ObjectType]:
    module, _, attribute = made_by.partition(":")

    def create(context: BackendContext, given: Any) -> Filter:
        maker = getattr(importlib.import_module(f"vnic.filter.{module}"), attribute)
        return cast(Filter, maker(context, given))

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
    )
)
"""By the value of `qom-type`."""


def object_structs() -> Mapping[str, type[o.NetFilterOptions]]:
    """The properties Struct of each type, which the monitor checks arguments against."""
    return {name: entry.options for name, entry in OBJECTS.items()}


def object_add(context: BackendContext, options: o.NetFilterOptions) -> None:
    """object-add. After a NetError nothing remains."""
    create = OBJECTS[str(options.__struct_config__.tag)].create
    add_filter(context.network, create(context, options))


def object_del(context: BackendContext, object_id: str) -> None:
    """object-del."""
    found = find_filter(context.network, object_id)
    if found is None:
        raise NetError(f"object '{object_id}' not found")
    found.remove()

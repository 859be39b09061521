"""Converts `-chardev`'s arguments to options, with the errors of QEMU's chardev/char.c. The machine calls it."""

from __future__ import annotations

from typing import cast

from vnic.chardev.flat import FLAT_CHARDEVS, FlatChardev
from vnic.chardev.options import ChardevOptions
from vnic.monitor.schema.convert import convert_to_shape
from vnic.monitor.schema.shapes import Union, base_members, object_of
from vnic.net.errors import NetError


def parse_flat_chardev(tree: dict[str, object]) -> ChardevOptions:
    """Raises NetError."""
    if not tree.get("id"):
        raise NetError("chardev: no id specified")
    if "backend" not in tree:
        raise NetError(f'chardev: "{tree["id"]}" missing backend')
    branches = {name: object_of(struct) for name, struct in FLAT_CHARDEVS.items()}
    shape = Union(
        "backend",
        branches,
        base_members(branches, ("id",)),
        unknown=lambda name: NetError(f"'{name}' is not a valid char driver name"),
        unexpected=lambda _backend, key: NetError(f"Invalid parameter '{key}'"),
    )
    return cast(FlatChardev, convert_to_shape(shape, tree, strings=True)).options()

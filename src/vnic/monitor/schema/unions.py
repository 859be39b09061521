"""Unions whose branches depend on the machine: the netdevs, devices, chardevs and objects that can be created.

The commands that create objects, and the options of the same names, convert their arguments with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from vnic.monitor.schema.shapes import (
    Member,
    Object,
    Union,
    base_members,
    object_of,
    wrapped,
)
from vnic.net.errors import NetError

Types: TypeAlias = Mapping[str, type[msgspec.Struct]]

_QEMU_NETDEVS = frozenset(
    {
        *("nic", "none", "user", "tap", "l2tpv3", "socket", "stream", "dgram", "vde", "bridge", "hubport"),
        *("netmap", "vhost-user", "vhost-vdpa", "passt", "af-xdp"),
        *("vmnet-host", "vmnet-shared", "vmnet-bridged"),
    }
)
"""NetClientDriver of qapi/net.json: types that QEMU may have and this program may lack."""


MODERN_NETDEVS = frozenset({"stream", "dgram", "passt"})
"""netdev_is_modern of QEMU's net/net.c: these accept no short-form booleans, and have the texts of newer options."""


def netdev_options(types: Types) -> Union:
    """netdev_add and -netdev: QAPI's Netdev."""
    branches, base = _branches(types)
    return Union(
        "type",
        branches,
        base,
        tag_last=True,
        older=frozenset(branches) - MODERN_NETDEVS,
        unknown=_unknown_netdev,
    )


def device_options(types: Types, not_built: Mapping[str, str] | None = None) -> Union:
    """device_add and -device.

    Values may be strings where another type is expected, and keys dotted, as in QMP before QEMU 9.2, where the
    arguments were those of an option string. The errors are qdev's (system/qdev-monitor.c, qom/object.c), except for
    the NICs of QEMU that are `not_built`, by name with the reason.
    """
    reasons = not_built or {}

    def unknown(name: str) -> NetError:
        if name in reasons:
            why = f": {reasons[name]}" if reasons[name] else ""
            return NetError(f"'{name}' is not built into vnic{why}; there are {', '.join(types)}")
        return NetError(f"'{name}' is not a valid device model name")

    branches, base = _branches(types)
    return Union("driver", branches, base, lenient=True, unknown=unknown, unexpected=_unknown_property)


def object_options(types: Types) -> Union:
    """object-add and -object: QAPI's ObjectOptions."""
    branches, base = _branches(types)
    return Union("qom-type", branches, base)


def chardev_backend(types: Types) -> Union:
    """The `backend` of chardev-add: QAPI's ChardevBackend, whose branches are wrapped in a member `data`."""
    return wrapped(_branches(types)[0])


def _branches(types: Types) -> tuple[dict[str, Object], tuple[Member, ...]]:
    """The branches and their common members: every option that creates an object has an `id`."""
    branches = {name: object_of(struct) for name, struct in types.items()}
    return branches, base_members(branches, ("id",))


def _unknown_netdev(name: str) -> NetError:
    if name in _QEMU_NETDEVS:
        return NetError(f"network backend '{name}' is not compiled into this binary")
    return NetError(f"Parameter 'type' does not accept value '{name}'")


def _unknown_property(driver: str, name: str) -> NetError:
    return NetError(f"Property '{driver}.{name}' not found")

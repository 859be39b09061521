"""Unions whose branches only the machine knows: which netdevs, devices, chardevs and objects can be created.

The commands that create things and the options of the same names convert their arguments against a `Choice`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from vnic.net.errors import NetError

from .shapes import Member, Object, Union, base_members, object_of

Types: TypeAlias = Mapping[str, type[msgspec.Struct]]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The arguments of a command (or option) that creates one of several kinds of things.

    `union()` is made anew where the machine's types have grown. `lenient`: values may be strings where another
    type is due, as QMP device_add takes them.
    """

    types: Types
    tag: str
    base: tuple[str, ...] = ()
    tag_last: bool = False
    lenient: bool = False
    unknown: Callable[[str], NetError] | None = None
    unexpected: Callable[[str, str], NetError] | None = None
    wrapped: bool = False
    """Whether a branch is a member `data` of its own (the wrapped branches of ChardevBackend)."""

    def union(self) -> Union:
        branches = {name: self._branch(struct) for name, struct in self.types.items()}
        return Union(
            self.tag,
            branches,
            base_members(branches, self.base),
            self.tag_last,
            self.unknown,
            self.unexpected,
        )

    def _branch(self, struct: type[msgspec.Struct]) -> Object:
        branch = object_of(struct)
        if not self.wrapped:
            return branch
        return Object(_unwrap, (Member("data", "data", branch, True),))


def _unwrap(data: object) -> object:
    return data


_QEMU_NETDEVS = frozenset(
    [
        "nic",
        "user",
        "tap",
        "l2tpv3",
        "socket",
        "stream",
        "dgram",
        "vde",
        "bridge",
        "hubport",
        "netmap",
        "vhost-user",
        "vhost-vdpa",
        "passt",
        "af-xdp",
        "vmnet-host",
        "vmnet-shared",
        "vmnet-bridged",
        "none",
    ]
)
"""NetClientDriver of qapi/net.json: what QEMU may have and this program may lack."""


def _unknown_netdev(name: str) -> NetError:
    if name in _QEMU_NETDEVS:
        return NetError(f"network backend '{name}' is not compiled into this binary")
    return NetError(f"Parameter 'type' does not accept value '{name}'")


def netdev_choice(types: Types) -> Choice:
    """netdev_add and -netdev: QAPI's Netdev."""
    return Choice(types, "type", ("id",), tag_last=True, unknown=_unknown_netdev)


def device_choice(types: Types) -> Choice:
    """device_add and -device; the errors are qdev's (system/qdev-monitor.c, qom/object.c)."""
    return Choice(
        types,
        "driver",
        ("id",),
        lenient=True,
        unknown=lambda name: NetError(f"'{name}' is not a valid device model name"),
        unexpected=lambda driver, key: NetError(f"Property '{driver}.{key}' not found"),
    )


def object_choice(types: Types) -> Choice:
    """object-add and -object: QAPI's ObjectOptions."""
    return Choice(types, "qom-type", ("id",))


def chardev_choice(types: Types) -> Choice:
    """The `backend` of chardev-add: QAPI's ChardevBackend."""
    return Choice(types, "type", wrapped=True)

"""Objects of `-object` that are no filters: their options, and the table in which object-del and QOM find them.

`follow.link_follow` derives from NetObject; filters are listed at their netdevs (`filters`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from vnic.keep import NO_KEPT
from vnic.net.errors import NetError
from vnic.net.names import check_identifier

if TYPE_CHECKING:
    from vnic.net.client import NetClient


class ObjectOptions(
    msgspec.Struct,
    tag_field="qom-type",
    rename="kebab",
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
):
    """The option that all objects share."""

    id: str


class NetObject:
    """One object. The default methods do nothing."""

    type = ""
    """Its QOM type."""

    def __init__(self, object_id: str) -> None:
        self.id = object_id
        self.item = NO_KEPT
        """Its options, among what outlives the process."""

    def setup(self) -> None:
        """Open resources and place the first hold. After a NetError, `cleanup` is called."""

    def cleanup(self) -> None:
        """Close everything."""

    def made(self) -> Iterable[NetClient]:
        """The clients that it has made."""
        return ()

    def part(self) -> None:
        """vnic ends, and has not changed anything yet: what happens now concerns this object no more."""

    def all_properties(self) -> dict[str, object]:
        """By name, in the order in which QOM lists them; a string that was not given is ""."""
        return {}


class Objects:
    """The objects of a network, by id."""

    def __init__(self) -> None:
        self._all: dict[str, NetObject] = {}

    def __iter__(self) -> Iterator[NetObject]:
        return iter(list(self._all.values()))

    def find(self, object_id: str) -> NetObject | None:
        return self._all.get(object_id)

    def add(self, new: NetObject) -> None:
        """NetError for an id that is malformed or in use, or if `setup` fails; nothing of it remains then."""
        check_new_id(new.id, new.id in self._all)
        try:
            new.setup()
        except BaseException:
            new.cleanup()
            raise
        self._all[new.id] = new

    def remove(self, found: NetObject) -> None:
        del self._all[found.id]
        found.cleanup()
        found.item.end()

    def part(self) -> None:
        """See NetObject."""
        for each in self:
            each.part()

    def close(self) -> None:
        for each in self:
            self.remove(each)


def check_new_id(object_id: str, in_use: bool) -> None:
    """The errors of object-add about an id."""
    check_identifier(object_id)
    if in_use:
        raise NetError(f"attempt to add duplicate property '{object_id}' to object (type 'container')")

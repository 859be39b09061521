"""What exists in a machine, and as what it was made: netdevs, NICs, objects and chardevs with their options, in order.

`BackendContext` has one `Items`. A process that takes the place of this one makes the same items again from the
records, before it restores the state of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated

import msgspec

from vnic.keep import NO_HANDLES, NO_KEEP, NO_KEPT, Keep, Kept, NoHandles
from vnic.net.client import NetClient
from vnic.record import Mac, Record


class Kind(StrEnum):
    """The kinds of items, in the order in which they are made again."""

    CHARDEV = "chardev"
    NETDEV = "netdev"
    OBJECT = "object"
    DEVICE = "device"


ITEM: str = "item"
CLIENT: str = "client"


class ItemRecord(Record, frozen=True):
    """One item."""

    kind: Kind
    name: str
    order: Annotated[int, msgspec.Meta(ge=0)]
    """It grows with each new item."""
    by: str
    type: str
    """The value of `type`, `driver`, `qom-type` or `backend`."""
    options: str
    """The Struct of its options, as JSON."""
    setting: str | None
    """The option of the command line that made it; None: a monitor did."""
    mac: Mac | None
    """A NIC's."""
    served: bool
    """A NIC's socket was opened; a chardev listens by itself, and is not a monitor's."""
    fault: str | None
    """The shape of the fault that a netem is."""
    filters: list[str]
    """The ids of a netdev's filters, in their order."""


class Item:
    """The place of one item among all: a unit, and what is told that it changes or ends."""

    def __init__(
        self,
        keep: Keep,
        record: ItemRecord,
        options: Callable[[], msgspec.Struct],
        filters: Callable[[], Sequence[str]],
        forget: Callable[[Item], None],
    ) -> None:
        self._record = record
        self._options = options
        self._filters = filters
        self._forget = forget
        self._kept = keep.unit(key_of(ITEM, record.kind, record.name), self)

    @property
    def record(self) -> ItemRecord:
        return self._record

    def save_kept(self) -> tuple[ItemRecord, NoHandles]:
        options = msgspec.json.encode(self._options()).decode()
        record = msgspec.structs.replace(self._record, options=options, filters=list(self._filters()))
        return record, NO_HANDLES

    def serves(self) -> None:
        """The NIC's socket is open."""
        if not self._record.served:
            self._record = msgspec.structs.replace(self._record, served=True)
            self.changed()

    def changed(self) -> None:
        """Its options differ, or its filters."""
        self._kept.changed()

    def handles_changed(self) -> None:
        """It has no descriptors."""

    def commit(self) -> None:
        self._kept.commit()

    def end(self) -> None:
        """It was deleted."""
        self._forget(self)
        self._kept.end()


class Items:
    """All items of a machine."""

    def __init__(self, keep: Keep = NO_KEEP) -> None:
        self.keep = keep
        self.setting: str | None = None
        """The option of the command line that is carried out now."""
        self.next_order = 0
        self._made_by: dict[str, list[Item]] = {}
        """By setting."""
        self.restoring: ItemRecord | None = None
        """The record of the item that is made again now."""

    def added(
        self,
        kind: Kind,
        name: str,
        options: Callable[[], msgspec.Struct],
        by: str,
        *,
        type: str | None = None,
        mac: bytes | None = None,
        fault: str | None = None,
        served: bool = False,
        filters: Callable[[], Sequence[str]] = tuple,
    ) -> Kept:
        """An item exists. The result is told of its changes and its end. `type`: where the options have no tag."""
        if not self.keep.active:
            return NO_KEPT
        record = self.restoring
        if record is None:
            record = ItemRecord(
                kind=kind,
                name=name,
                order=self.next_order,
                by=by,
                type=type or str(options().__struct_config__.tag),
                options="",
                setting=self.setting,
                mac=mac,
                served=served,
                fault=fault,
                filters=[],
            )
            self.next_order += 1
        item = Item(self.keep, record, options, filters, self._forget)
        if record.setting is not None:
            self._made_by.setdefault(record.setting, []).append(item)
        return item

    def _forget(self, item: Item) -> None:
        setting = item.record.setting
        if setting is not None and item in self._made_by.get(setting, ()):
            self._made_by[setting].remove(item)

    def made_by(self, setting: str) -> str | None:
        """The name of the last item that a setting of the command line made and that is still there."""
        found = self._made_by.get(setting)
        return found[-1].record.name if found else None

    def added_client(
        self, kind: Kind, client: NetClient, options: msgspec.Struct, by: str, mac: bytes | None = None
    ) -> None:
        """As `added`, for a netdev or a NIC, whose client is kept from now on, too."""
        if self.keep.active:
            client.item = self.added(
                kind,
                client.name,
                lambda: options,
                by,
                mac=mac,
                filters=lambda: [each.id for each in client.filters],
            )
            client.kept = self.keep.unit(key_of(CLIENT, kind, client.name), client)


def key_of(prefix: str, kind: Kind, name: str) -> str:
    """A key in the store."""
    return f"{prefix}/{kind}/{name}"

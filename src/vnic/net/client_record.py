"""The saved state of a client: holds, counters, the last change, waiting frames. Endpoint and peer are not part of it.

`NetClient`, `LinkReport`, `IncomingQueue` and `Journal` save and restore it. Times are ages.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from vnic.net.offload import HEADER_BYTES
from vnic.net.records import (
    Cause,
    ClientType,
    Hold,
    HoldKind,
    LinkChange,
    SeenBy,
    ShownBy,
    UpDown,
)
from vnic.record import Record, require

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
AgeUs = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
OFFLOAD_SIZES = (0, 10)
assert OFFLOAD_SIZES[1] == HEADER_BYTES


class HoldRecord(Record, frozen=True):
    """A hold of the client whose record contains it."""

    kind: HoldKind
    by: str
    text: str
    since: float
    age_us: AgeUs
    via: list[str]
    root: HoldKind | None

    @staticmethod
    def of(hold: Hold, now_us: int) -> HoldRecord:
        return HoldRecord(
            kind=hold.kind,
            by=hold.by,
            text=hold.text,
            since=hold.since,
            age_us=max(0, now_us - hold.monotonic_us),
            via=list(hold.via),
            root=hold.root,
        )

    def hold(self, client: str, now_us: int) -> Hold:
        then_us = now_us - self.age_us
        return Hold(client, self.kind, self.by, self.text, self.since, then_us, tuple(self.via), self.root)


class ChangeRecord(Record, frozen=True):
    """A record of the journal."""

    id: Count
    name: str
    type: ClientType
    link: UpDown
    cause: Cause
    time: float
    age_us: AgeUs
    caused_by: Count | None
    notified_us: Count | None
    interrupt_us: Count | None
    seen_us: Count | None
    seen_latency_us: Count | None
    seen_by: SeenBy | None = None

    @staticmethod
    def of(change: LinkChange, now_us: int) -> ChangeRecord:
        fields = msgspec.structs.asdict(change)
        del fields["boot_id"]  # a change of this process has none
        return ChangeRecord(age_us=max(0, now_us - fields.pop("monotonic_us")), **fields)

    def change(self, now_us: int) -> LinkChange:
        fields = msgspec.structs.asdict(self)
        return LinkChange(monotonic_us=now_us - fields.pop("age_us"), **fields)


class WaitingFrameRecord(Record, frozen=True):
    """A waiting frame and its virtio_net_hdr."""

    frame: bytes
    offload: bytes

    def check_fields(self) -> None:
        size = len(self.offload)
        require(size in OFFLOAD_SIZES, "offload", f"has {size} bytes, not {HEADER_BYTES} or none")


class IncomingQueueRecord(Record, frozen=True):
    """The state of an IncomingQueue. The sender is the peer."""

    frames: list[WaitingFrameRecord]


class LinkReportRecord(Record, frozen=True):
    """The state of a LinkReport; the change that it follows is the client's last one."""

    attached: bool
    driver_ok: bool
    admin_down: bool
    seen: Literal["up", "down", "unknown"]
    seen_latency_us: Count | None
    shown_by: ShownBy | None
    attached_age_us: AgeUs
    created: bool
    notice_owed: bool
    interrupt_owed: bool
    seen_by: SeenBy | None = None


class NicRecord(Record, frozen=True):
    """The part of the state that only a NIC has."""

    report: LinkReportRecord
    leaving: bool
    rx_filter_notify: bool


class NetClientRecord(Record, frozen=True):
    """The state of a NetClient. Ages are those at `saved_us`."""

    name: str
    holds: list[HoldRecord]
    last_change: ChangeRecord | None
    carrier_up_changes: Count
    carrier_down_changes: Count
    dropped: Count
    incoming: list[IncomingQueueRecord]
    nic: NicRecord | None
    saved_us: Count = 0
    """CLOCK_MONOTONIC."""

    def check_fields(self) -> None:
        kinds = [hold.kind for hold in self.holds]
        require(len(set(kinds)) == len(kinds), "holds", "has one kind twice")
        change = self.last_change
        require(change is None or change.name == self.name, "last_change.name", "is another client's")


class JournalRecord(Record, frozen=True):
    """The state of a Journal, without its changes."""

    next_id: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]

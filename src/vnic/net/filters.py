"""Filters on a netdev: which frames a filter sees, in what order, and how it passes on kept ones (QEMU's net/filter.c).

`vnic.filter` derives the filters of `-object filter-…` from Filter; NetClient.send runs them through `filter_frame`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias

from vnic.keep import NO_HANDLES, NO_KEEP, NO_KEPT, Keep, Kept, NoHandles, take_place
from vnic.net.errors import NetError
from vnic.net.queue import Frame, Sender, SendingEndpoint
from vnic.net.records import LinkImpairment
from vnic.record import Record

if TYPE_CHECKING:  # most runs have no impairments
    from vnic.net.netem.line import Line
    from vnic.net.netem.parameters import Parameters


KEPT_FRAMES_BYTES: Final = 64 * 1024
"""A filter that has more frames than that loses them if this process is killed: they are saved in each turn of the
loop."""


class Direction(enum.StrEnum):
    """The `queue=` of a filter, as the netdev sees it (NetFilterDirection of qapi/net.json)."""

    ALL = "all"
    RX = "rx"
    """What the netdev receives: the guest sent it."""
    TX = "tx"
    """What the netdev sends: the guest will receive it."""


class Insert(enum.StrEnum):
    """On which side of the filter that `position=id=…` names (NetfilterInsert)."""

    BEFORE = "before"
    BEHIND = "behind"


class DumpTarget(Protocol):
    """A filter that only writes frames to a pcap file, so that another process can write them."""

    @property
    def received(self) -> bool:
        """It writes the frames that the netdev receives."""

    @property
    def sent(self) -> bool: ...

    @property
    def snaplen(self) -> int:
        """The bytes that are kept of a frame."""

    def fileno(self) -> int:
        """The file, to which whole records are appended."""

    def failed(self, reason: str) -> None:
        """The file could not be written: end the dump."""


class ImpairTarget(Protocol):
    """A netem, so that another process can do what it does."""

    @property
    def id(self) -> str: ...
    @property
    def parameters(self) -> Parameters: ...
    @property
    def lines(self) -> Mapping[Direction, Line]:
        """By direction."""

    def lost(self, frames: int) -> None:
        """So many frames were under way when it ended."""


class FilterOptions(Protocol):
    """The options of all filters (NetfilterProperties of qapi/qom.json)."""

    @property
    def id(self) -> str: ...
    @property
    def netdev(self) -> str: ...
    @property
    def queue(self) -> Direction: ...
    @property
    def status(self) -> str: ...
    @property
    def position(self) -> str: ...
    @property
    def insert(self) -> Insert: ...


class FilteredEndpoint(SendingEndpoint, Protocol):
    """A client's endpoint, as its filters see it."""

    @property
    def wants_offload(self) -> bool: ...


class WireEnd(Protocol):
    """A client, as its filters see it."""

    dropped: int
    filters: list[Filter]
    """Only a netdev's; the first is the nearest to it (QEMU's QTAILQ of the same name)."""
    item: Kept
    """It is told of other filters."""

    @property
    def endpoint(self) -> FilteredEndpoint: ...
    @property
    def peer(self) -> WireEnd | None: ...
    @property
    def holds(self) -> Sized: ...

    def deliver(self, sender: Sender, queue: int, frame: Frame, offload: bytes = b"") -> bool: ...

    def path_changed(self) -> None: ...


class FilterRecord(Record, frozen=True):
    """The state that all filters have; types with more derive theirs from it."""

    on: bool


KeptType: TypeAlias = tuple[type[FilterRecord], Any]
"""The types of a record and of its handles."""


class Filter:
    """One filter of one netdev (NetFilterState). `filter_set.add_filter` inserts it; `remove` or the deletion of its
    netdev removes it.

    The default methods let all frames pass.
    """

    type = ""
    """Its QOM type: `filter-…`."""

    netdev: WireEnd
    """Set by `filter_set.add_filter` before `setup`."""

    keep: Keep = NO_KEEP
    """What outlives the process; set before `setup_kept`."""
    kept: Kept = NO_KEPT
    """Its place there."""
    kept_type: ClassVar[KeptType] = (FilterRecord, NoHandles)
    """The types of what `save_kept` returns."""
    age_us = 0
    """While it is restored: the time since its record was saved."""

    def __init__(self, options: FilterOptions) -> None:
        """Raises NetError for an invalid value."""
        self.options = options
        self.on = _is_on(options.status)
        """Off: it sees nothing."""
        self.item = NO_KEPT
        """Its options, among what outlives the process."""
        both = (Direction.RX, Direction.TX)
        self.directions = frozenset(both if options.queue is Direction.ALL else (options.queue,))

    @property
    def id(self) -> str:
        return self.options.id

    # -- overridden by filter types ---------------------------------------------------------------------------------

    def receive(self, sender: WireEnd, queue: int, frame: Frame, offload: bytes) -> bool:
        """Inspect a frame. True: the filter took it, to drop it or to pass it on later; False: it continues.

        The frame may be a view that is invalid after the call returns: copy what is kept.
        """
        return False

    def setup(self) -> None:
        """Open resources; on a NetError, `add_filter` calls `cleanup` and raises it again."""

    def status_changed(self) -> None:
        """`on` changed: pass on kept frames if the filter is off now."""

    def cleanup(self) -> None:
        """Pass on kept frames and close everything; called once, while the filter is still in its netdev's list."""

    def wire_refusal(self) -> str:
        """Why frames of this wire have to pass through Python; "" if they need not."""
        return f"{self.type} {self.id} sees every frame"

    def dump_target(self) -> DumpTarget | None:
        """The filter itself, if it only writes frames to a file."""
        return None

    def impairment(self) -> LinkImpairment | None:
        """What it does to the frames, if that is an impairment."""
        return None

    def added(self, by: str) -> None:
        """`by` has added it."""

    def deleted(self, by: str) -> None:
        """`by` has deleted it; its netdev stays."""

    def set_property(self, name: str, value: object, by: str) -> None:
        """qom-set of one of `all_properties` but `status`. Raises NetError."""
        raise NetError(f"Property '{self.type}.{name}' is not writable")

    def impair_target(self) -> ImpairTarget | None:
        """The filter itself, if another process can do what it does."""
        return None

    def own_properties(self) -> dict[str, object]:
        """The properties of its type, in the order in which QEMU prints them; None is a string that was not given."""
        return {}

    def save(self) -> FilterRecord:
        """The record; types that have more state override this and `restore`."""
        return FilterRecord(on=self.on)

    def restore(self, record: Any, handles: Any = None) -> None:
        """Go on in the place of the filter that was saved, with the type's own record and handles; called instead of
        `setup`. Raises RecordError."""
        self.on = record.on

    # -- what outlives the process ------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """That of its unit."""
        return f"object/{self.id}"

    def save_kept(self) -> tuple[FilterRecord, Any]:
        """See Unit."""
        return self.save(), NO_HANDLES

    def take_up(self, record: Any, handles: Any) -> None:
        """Go on with what the process before has kept; in place of `setup`. The descriptors are its own, also if it
        raises RecordError."""
        self.restore(record)

    def setup_kept(self) -> None:
        """`setup`, and keep it from now on. Raises NetError."""
        self.setup()
        self.kept = self.keep.unit(self.key, self)

    def restore_kept(self) -> bool:
        """Go on where the process before was killed; called in place of `setup_kept`. False: there is no record, or it
        was refused; nothing is open, and `setup_kept` may be called."""
        return take_place(self.keep, self, *self.kept_type)

    # -- called by the machine and by Network -----------------------------------------------------------------------

    def set_status(self, status: str) -> None:
        """Switch it on or off (netfilter_set_status)."""
        on = _is_on(status)
        if on is not self.on:
            self.on = on
            self.kept.changed()
            self.status_changed()
            self.netdev.path_changed()

    def remove(self) -> None:
        """Remove the filter: object-del, or its netdev is deleted (netfilter_finalize)."""
        self.cleanup()
        self.netdev.filters.remove(self)
        self.netdev.item.changed()
        self.item.end()
        self.kept.end()
        self.netdev.path_changed()

    def pass_on(self, sender: WireEnd, queue: int, frame: Frame, offload: bytes = b"") -> None:
        """Send a frame, as from `sender`, through the filters after this one and to the peer
        (qemu_netfilter_pass_to_next).

        The frame is dropped if the sender has no peer or is down by now. Filters on a peer that is a netdev see it as
        well; QEMU skips those after a filter of the sender kept the frame.
        """
        peer = sender.peer
        if peer is None or sender.holds:
            sender.dropped += 1
            return
        filters = self.netdev.filters
        at = filters.index(self)
        if sender is self.netdev:
            taken = _run(filters[at + 1 :], Direction.TX, sender, queue, frame, offload) or _run(
                peer.filters[::-1], Direction.RX, sender, queue, frame, offload
            )
        else:
            taken = _run(filters[:at][::-1], Direction.RX, sender, queue, frame, offload)
        if not taken:
            peer.deliver(sender, queue, frame, offload)

    def all_properties(self) -> dict[str, object]:
        """All properties but `type`, in the order of `info network`."""
        options = self.options
        own = self.own_properties().items()
        return {
            **{name: "" if value is None else value for name, value in own},
            "position": options.position,
            "status": "on" if self.on else "off",
            "insert": str(options.insert),
            "netdev": options.netdev,
            "queue": str(options.queue),
        }

    def info_text(self) -> str:
        """The text after `type=…` in `info network` (netfilter_print_info)."""
        return "".join(f",{name}={_text(value)}" for name, value in self.all_properties().items())


def _is_on(status: str) -> bool:
    if status not in ("on", "off"):
        raise NetError("Invalid value for netfilter status, should be 'on' or 'off'")
    return status == "on"


def _text(value: object) -> str:
    """A property's value as QEMU's string-output-visitor prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _run(
    filters: Iterable[Filter],
    direction: Direction,
    sender: WireEnd,
    queue: int,
    frame: Frame,
    offload: bytes,
) -> bool:
    """Show a frame to each filter in turn; True: one took it."""
    for each in filters:
        if each.on and direction in each.directions and each.receive(sender, queue, frame, offload):
            return True
    return False


def filter_frame(sender: WireEnd, queue: int, frame: Frame, offload: bytes) -> bool:
    """Run a frame through the filters of both ends; True: one of them took it (net/net.c: filter_receive).

    It passes the filters of the sender in list order, then those of the receiver in reverse: the head of the list is
    nearest to the netdev.
    """
    if _run(sender.filters, Direction.TX, sender, queue, frame, offload):
        return True
    peer = sender.peer
    return peer is not None and _run(reversed(peer.filters), Direction.RX, sender, queue, frame, offload)

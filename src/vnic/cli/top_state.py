"""What `vnic top` knows of each link: its entry, its rates, and how it was in the last hour. No I/O.

`top` feeds it with query-links, query-traffic and query-journal, and shows its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from vnic.cli.client import Entry
from vnic.cli.link_filter import natural
from vnic.cli.link_table import guest_saw, in_wires
from vnic.net.records import LinkInfo

HOUR_S: Final = 3600.0
BUCKETS: Final = 30
"""Characters of an hour, of two minutes each."""
BARS: Final = "▁▂▃▄▅▆▇█"
"""By the part of its two minutes that a link was up: none to all."""
COUNTERS: Final = ("frames-in", "bytes-in", "frames-out", "bytes-out", "dropped")


class Rates(msgspec.Struct, rename="kebab", frozen=True):
    """What passes at one end, a second. `in` comes from the guest, or from the far end of a netdev."""

    bits_in: float
    frames_in: float
    bits_out: float
    frames_out: float
    dropped: float


class TopLink(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    """One row of `vnic top`."""

    link: LinkInfo
    """As query-links has it."""
    hour: list[float | None]
    """The part of the time that the link was up, of each two minutes of the last hour, the oldest first; null: it was
    not there."""
    rates: Rates | None = None
    """Absent until it was counted twice."""


class Top(msgspec.Struct, frozen=True):
    """One look at all links."""

    time: float
    """Seconds of wall-clock time."""
    links: list[TopLink]


@dataclass(slots=True)
class _Change:
    time: float
    up: bool
    created: bool


@dataclass(slots=True)
class Row:
    """One link, to be shown."""

    entry: Entry
    rates: Rates | None
    hour: list[float | None]

    @property
    def saw(self) -> str:
        return guest_saw(self.entry)

    @property
    def bits(self) -> float:
        return 0.0 if self.rates is None else self.rates.bits_in + self.rates.bits_out


SORTS: Final = ("wire", "name", "rate", "changes", "last")
"""`wire`: each NIC and then its netdev."""


@dataclass(slots=True)
class TopState:
    """Grows by what is told of a running vnic."""

    _links: list[Entry] = field(default_factory=list)
    _counters: dict[tuple[str, str], Entry] = field(default_factory=dict)
    _counted_at: float | None = None
    _rates: dict[tuple[str, str], Rates] = field(default_factory=dict)
    _changes: dict[tuple[str, str], list[_Change]] = field(default_factory=dict)
    last_id: int = 0
    """The newest record of the journal that was told."""

    def tell_links(self, links: Sequence[Entry]) -> None:
        self._links = in_wires(list(links))

    def tell_traffic(self, counted: Iterable[Entry], monotonic: float) -> None:
        """The counters at a time of the monotonic clock."""
        new = {_key(each): each for each in counted}
        if self._counted_at is not None and monotonic > self._counted_at:
            took = monotonic - self._counted_at
            self._rates = {
                key: _rates(self._counters[key], each, took)
                for key, each in new.items()
                if key in self._counters
            }
        self._counters, self._counted_at = new, monotonic

    def tell_records(self, records: Iterable[Entry]) -> None:
        """Records of the journal, the oldest first."""
        for each in records:
            self.last_id = max(self.last_id, each["id"])
            if each["kind"] == "link":
                change = _Change(each["time"], each["link"] == "up", each["cause"]["kind"] == "created")
                self._changes.setdefault(_key(each), []).append(change)

    def rows(self, now: float, sort: str = "wire") -> list[Row]:
        """All links as they are at `now`, in seconds of wall-clock time."""
        self._forget(now - HOUR_S)
        rows = [Row(link, self._rates.get(_key(link)), self._hour(link, now)) for link in self._links]
        if sort == "name":
            rows.sort(key=lambda row: natural(row.entry["name"]))
        elif sort == "rate":
            rows.sort(key=lambda row: -row.bits)
        elif sort == "changes":
            rows.sort(key=lambda row: -row.entry["carrier-changes"])
        elif sort == "last":
            rows.sort(key=lambda row: -row.entry["last-change"]["time"])
        return rows

    def _forget(self, before: float) -> None:
        """Changes before the hour, but for the last of each link: it tells how the hour began."""
        there = {_key(link) for link in self._links}
        for key, changes in list(self._changes.items()):
            if key not in there:
                del self._changes[key]
                continue
            while len(changes) > 1 and changes[1].time <= before:
                del changes[0]

    def _hour(self, link: Entry, now: float) -> list[float | None]:
        """How much of each bucket the link was up."""
        changes = self._changes.get(_key(link), [])
        first = changes[0] if changes else None
        if first is None:
            spans = [(now - HOUR_S, now, link["link"] == "up")]
            if link["last-change"]["time"] > now - HOUR_S:  # its record is not told yet, or is no more
                spans = [(link["last-change"]["time"], now, link["link"] == "up")]
        else:
            spans = [] if first.created else [(now - HOUR_S, first.time, not first.up)]
            ends = [each.time for each in changes[1:]] + [now]
            spans += [(each.time, end, each.up) for each, end in zip(changes, ends, strict=True)]
        return buckets(spans, now)


def buckets(spans: Sequence[tuple[float, float, bool]], now: float) -> list[float | None]:
    """The part of each bucket in which a link was up; None where no span touches it."""
    width = HOUR_S / BUCKETS
    known, up = [0.0] * BUCKETS, [0.0] * BUCKETS
    for start, end, is_up in spans:
        for index in range(BUCKETS):
            low = now - HOUR_S + index * width
            shared = min(end, low + width) - max(start, low)
            if shared > 0:
                known[index] += shared
                up[index] += shared if is_up else 0.0
    return [None if not had else up[index] / had for index, had in enumerate(known)]


def sparkline(hour: Sequence[float | None]) -> str:
    """One character for each; a link that was down for a moment is never shown as up all the time, nor the reverse."""
    return "".join(map(_bar, hour))


def _bar(part: float | None) -> str:
    if part is None:
        return " "
    if part in (0.0, 1.0):
        return BARS[-1] if part else BARS[0]
    return BARS[1 + min(int(part * (len(BARS) - 2)), len(BARS) - 3)]


def _rates(old: Entry, new: Entry, took: float) -> Rates:
    """Counters that went back are those of another one of that name, or of a vnic that was started again."""
    frames_in, bytes_in, frames_out, bytes_out, dropped = (
        max(0, new[each] - old[each]) / took for each in COUNTERS
    )
    return Rates(bytes_in * 8, frames_in, bytes_out * 8, frames_out, dropped)


def _key(entry: Entry) -> tuple[str, str]:
    return entry["name"], entry["type"]


def rate_text(bits: float) -> str:
    """`3.2 Mbit/s`; `-` for nothing."""
    if bits < 1:
        return "-"
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if bits < 1000:
            return f"{bits:.0f} {unit}" if unit == "bit/s" or bits >= 100 else f"{bits:.1f} {unit}"
        bits /= 1000
    return f"{bits:.1f} Tbit/s"


def count_text(count: float) -> str:
    """Frames a second: `12`, `3.4k`; `-` for none."""
    if count < 0.05:
        return "-"
    if count < 10:
        return f"{count:.1f}"
    for unit in ("", "k", "M"):
        if count < 1000:
            return f"{count:.0f}{unit}" if not unit or count >= 100 else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}G"

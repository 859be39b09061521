"""Makes the figures of one event out of what the captures and the guests saw. Pure.

A probe is delivered when the far guest's socket got it: a bond drops frames that come in on its idle NIC, and those are
seen at the wire all the same. When it came is what the capture at the far guest's NIC says.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from vnic.lab.rehearse.paths import Paths
from vnic.lab.rehearse.pcap import Sighting
from vnic.lab.rehearse.records import Direction, PathUse

LEAD_US: Final = 200_000
"""So long before a change, and at the end of its time, the path is looked at."""
LATE_INTERVALS: Final = 3
"""A probe was held up that comes after the one before it by so much more than it was sent after it."""
PATHS_MAX: Final = 50
"""Changes of the path that are told of one event."""


class Window(NamedTuple):
    """An event's time in this host's wall-clock microseconds: its change, and its end."""

    change: int
    until: int


class Arrival(NamedTuple):
    """A delivered probe at the far guest's NIC."""

    time: int
    number: int
    sent: int
    path: str


@dataclass
class Trace:
    """All probes of one direction in one run."""

    source: str
    target: str
    paths: Paths
    interval_us: int
    received: list[int]
    """The numbers in the order in which the far guest's socket got them."""
    pauses: Sequence[tuple[int, int]]
    progress: Sequence[tuple[int, int]]
    """The sender's time, and how many it had sent by then."""
    seen: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    """By number: when a probe was at which NIC."""
    _sent: dict[int, int] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    """By time."""
    delivered: frozenset[int] = frozenset()
    """The numbers of all that were received."""
    _ahead: int = 0
    """How far this host's wall clock is ahead of the sender's time."""

    def add(self, nic: str, sighting: Sighting) -> None:
        self.seen.setdefault(sighting.number, []).append((sighting.time, nic))
        self._sent[sighting.number] = sighting.sent

    def sort(self) -> None:
        """All is added: find the arrivals."""
        self.delivered = frozenset(self.received)
        # The frame that was captured soonest after it was sent tells most of the clocks.
        self._ahead = min(
            (min(seen)[0] - self._sent[number] for number, seen in self.seen.items()), default=0
        )
        nics = self.paths.nics
        at_target = {nic for nic, (end, _) in nics.items() if end.node == self.target}
        links = {nic: index for nic, (_, index) in nics.items()}
        for number in self.delivered:
            seen = self.seen.get(number, ())
            came = min((time for time, nic in seen if nic in at_target), default=None)
            if came is not None:
                way = frozenset(links[nic] for _, nic in seen)
                path = self.paths.text(self.source, self.target, way)
                self.arrivals.append(Arrival(came, number, self._sent[number], path))
        self.arrivals.sort()

    def between(self, begin: int, end: int) -> list[Arrival]:
        """The arrivals from one time to another."""
        low = bisect_left(self.arrivals, begin, key=lambda each: each.time)
        return self.arrivals[low : bisect_right(self.arrivals, end, key=lambda each: each.time)]

    def sender_time(self, time: int) -> int:
        """The sender's clock at a time of this host's."""
        return time - self._ahead

    def sent_by(self, time: int) -> int:
        """How many the sender had sent by then, also those that no capture has: from its own lines."""
        now = self.sender_time(time)
        at = bisect_left(self.progress, (now, 0))
        if at == len(self.progress):
            return self.progress[-1][1] if self.progress else 0
        (begin, first), (end, last) = self.progress[at - 1] if at else (0, 0), self.progress[at]
        return first + (last - first) * (now - begin) // (end - begin) if end > begin else last


def measure(trace: Trace, window: Window, *, converged: bool, was_out: bool = False) -> Direction:
    """What happened to the probes of a direction. `was_out`: before the change none came, by an event before it, whose
    loss is not counted here."""
    before = [] if was_out else _before(trace, window.change)
    after = trace.between(window.change + 1, window.until)
    old = _path(before)
    new = _path([each for each in after if each.time > window.until - LEAD_US])
    if not new and converged:
        new = _path(after[-1:]) or old

    def ms(time: int) -> float:
        return (time - window.change) / 1000

    first_number = before[-1].number + 1 if before else trace.sent_by(window.change)
    end_number = max((each.number for each in after), default=first_number - 1)
    if not converged:
        end_number = max(end_number, trace.sent_by(window.until) - 1)
    lost = [number for number in range(first_number, end_number + 1) if number not in trace.delivered]
    in_order = _received_in(trace.received, first_number, end_number)
    found = Direction(
        source=trace.source,
        target=trace.target,
        converged=converged,
        outage_ms=0.0,
        old_path=old,
        new_path=new,
        sent=end_number - first_number + 1,
        lost=len(lost),
        reordered=_reordered(in_order),
        doubled=len(in_order) - len(set(in_order)),
        lost_at=dict(Counter(_last_seen(trace, number) for number in lost)),
        paths=_uses([*before[-1:], *after], window.change),
    )
    if old != new:
        found.last_old_ms = max(
            (ms(each.time) for each in (*before, *after) if each.path == old), default=None
        )
        found.first_new_ms = min((ms(each.time) for each in after if each.path == new), default=None)
    begin = before[-1:] or [Arrival(window.change, first_number - 1, trace.sender_time(window.change), old)]
    _find_outage(trace, found, [*begin, *after], window)
    return found


def _before(trace: Trace, change: int) -> list[Arrival]:
    """What came shortly before a change, or the last that came at all: its sender stood still."""
    return trace.between(change - LEAD_US, change) or trace.between(0, change)[-1:]


def _path(arrivals: Sequence[Arrival]) -> str:
    """That of the most."""
    return Counter(each.path for each in arrivals).most_common(1)[0][0] if arrivals else ""


def _find_outage(trace: Trace, found: Direction, arrivals: Sequence[Arrival], window: Window) -> None:
    """The longest gap in which a probe was lost, or held up while the path changed. A sender that stood still is none,
    and neither is a machine that had no time for the frames."""
    longest: tuple[int, Arrival, Arrival | None] | None = None
    for one, two in pairwise(arrivals):
        gap = two.time - one.time
        if longest is not None and gap <= longest[0]:
            continue
        held_up = gap - (two.sent - one.sent) > LATE_INTERVALS * trace.interval_us
        if (held_up and one.path != two.path) or any(
            number not in trace.delivered for number in range(one.number + 1, two.number)
        ):
            longest = gap, one, two
    if not found.converged and (longest is None or window.until - arrivals[-1].time > longest[0]):
        longest = window.until - arrivals[-1].time, arrivals[-1], None
    if longest is None:
        return
    gap, one, two_or_none = longest
    found.outage_ms = gap / 1000
    found.outage_from_ms = (one.time - window.change) / 1000
    if two_or_none is not None:
        found.outage_to_ms = (two_or_none.time - window.change) / 1000
        found.pause_ms = (
            sum(late for number, late in trace.pauses if one.number < number <= two_or_none.number) / 1000
        )


def _received_in(received: Iterable[int], first: int, last: int) -> list[int]:
    return [number for number in received if first <= number <= last]


def _reordered(numbers: Iterable[int]) -> int:
    highest, count, known = -1, 0, set[int]()
    for number in numbers:
        count += number < highest and number not in known
        known.add(number)
        highest = max(highest, number)
    return count


def _last_seen(trace: Trace, number: int) -> str:
    seen: Sequence[tuple[int, str]] = trace.seen.get(number, ())
    if not seen:
        return trace.source
    nics: Mapping[str, tuple[object, int]] = trace.paths.nics
    return trace.paths.link_text(nics[max(seen)[1]][1])


def _uses(arrivals: Iterable[Arrival], change: int) -> list[PathUse]:
    uses: list[PathUse] = []
    for each in arrivals:
        at = (each.time - change) / 1000
        if not uses or uses[-1].path != each.path:
            if len(uses) == PATHS_MAX:
                break
            uses.append(PathUse(path=each.path, first_ms=at, last_ms=at, probes=0))
        uses[-1].last_ms = at
        uses[-1].probes += 1
    return uses

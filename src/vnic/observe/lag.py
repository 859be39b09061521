"""Measures the event loop's lag: how long each of its turns took, while all other events had to wait.

`LagLoop` is the loop of `vnic run`; QMP's query-vnic reports the figures of `Lag`. An idle loop makes no turns and
costs nothing. A turn costs two readings of the clock and one addition, 0.4 µs.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

HALF_WINDOW_S: Final = 30
"""The report covers the last one to two of these."""

_FINE_BITS: Final = 3
"""The bits of a duration that are kept below its highest bit: a bucket is at most an eighth wide."""
_BUCKETS: Final = 64 << _FINE_BITS


@dataclass(frozen=True, slots=True)
class LagSummary:
    """Microseconds; the percentiles are rounded up by an eighth at most."""

    turns: int
    p50_us: int
    p99_us: int
    max_us: int


class _Half:
    """The turns of half a window, by length."""

    def __init__(self) -> None:
        self.buckets = [0] * _BUCKETS
        self.max_ns = 0


class Lag:
    """The lengths of the turns of the last window, in 2 × 512 counters."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock`: nanoseconds. A test may pass a clock that stops while the thread is preempted."""
        self.clock = clock
        self.reset()

    def reset(self) -> None:
        """Drop all turns, such as those of the start, when no client waits yet."""
        self._half = _Half()
        self._before = _Half()
        self._turns_over_at = self.clock() + HALF_WINDOW_S * 1_000_000_000

    def add(self, began_ns: int, ended_ns: int) -> None:
        """Count one turn."""
        if ended_ns >= self._turns_over_at:
            self._turn_over(ended_ns)
        took = ended_ns - began_ns
        half = self._half
        if took > half.max_ns:
            half.max_ns = took
        half.buckets[_bucket(took)] += 1

    def _turn_over(self, now_ns: int) -> None:
        """Drop the older half, and both halves after a time without a turn."""
        half_ns = HALF_WINDOW_S * 1_000_000_000
        fresh = now_ns < self._turns_over_at + half_ns
        self._before = self._half if fresh else _Half()
        self._half = _Half()
        self._turns_over_at = now_ns + half_ns

    def summary(self) -> LagSummary:
        now_ns = self.clock()
        if now_ns >= self._turns_over_at:
            self._turn_over(now_ns)
        counts = [sum(pair) for pair in zip(self._half.buckets, self._before.buckets, strict=True)]
        turns = sum(counts)
        max_ns = max(self._half.max_ns, self._before.max_ns)
        p50, p99 = (min(_percentile(counts, turns, share), max_ns) for share in (50, 99))
        return LagSummary(turns, _micros(p50), _micros(p99), _micros(max_ns))


def _bucket(ns: int) -> int:
    """The counter for a duration: its highest bit, and the next _FINE_BITS."""
    shift = ns.bit_length() - _FINE_BITS - 1
    return (shift << _FINE_BITS) + (ns >> shift) if shift > 0 else max(ns, 0)


def _upper_edge(bucket: int) -> int:
    """The longest duration of a bucket, in nanoseconds."""
    shift = (bucket >> _FINE_BITS) - 1
    if shift <= 0:
        return bucket
    return ((bucket - (shift << _FINE_BITS) + 1) << shift) - 1


def _percentile(counts: list[int], turns: int, share: int) -> int:
    wanted = -(-turns * share // 100)
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if count and seen >= wanted:
            return _upper_edge(bucket)
    return 0


def _micros(ns: int) -> int:
    return -(-ns // 1000)


MOST_EVENTS: Final = 64
"""In one turn. Timers run once a turn, so that a thousand guests which all speak at once must not be one turn."""


class _TimedSelector(selectors.EpollSelector):
    """The loop blocks only here: the time between two calls is the work of one turn."""

    def __init__(self, lag: Lag) -> None:
        super().__init__()
        self._lag = lag
        self._began_ns = 0
        self._first = 0
        """Where the events of the next turn begin, if there are more than one turn takes."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        lag = self._lag
        if self._began_ns:
            lag.add(self._began_ns, lag.clock())
        try:
            ready = super().select(timeout)
            return ready if len(ready) <= MOST_EVENTS else self._some(ready)
        finally:
            self._began_ns = lag.clock()

    def _some(
        self, ready: list[tuple[selectors.SelectorKey, int]]
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Others than the last time. The kernel reports the rest again."""
        first = self._first % len(ready)
        self._first = first + MOST_EVENTS
        return (ready[first:] + ready[:first])[:MOST_EVENTS]


class LagLoop(asyncio.SelectorEventLoop):
    """An event loop that measures its lag."""

    def __init__(self, lag: Lag | None = None) -> None:
        self.lag = lag or Lag()
        super().__init__(_TimedSelector(self.lag))

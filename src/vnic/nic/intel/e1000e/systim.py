"""The 82574's clock: SYSTIM counts TIMINCA's increments, and TIMADJ moves it (datasheet §10.2.10).

Drivers make a PTP hardware clock of it. Frames are not stamped. Computed as QEMU's e1000x_timestamp.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.nic.intel.e1000e import registers as r
from vnic.record import Record, require

_VALUE = 0xFFFFFF
_PERIOD_SHIFT = 24
_TICKS_PER_NS = 16
_WORD = 0xFFFFFFFF
_HALF, _WHOLE = 1 << 63, 1 << 64


class SystemTimeRecord(Record, frozen=True):
    """The registers are among the plain ones."""

    adjustment: int

    def check_fields(self) -> None:
        require(self.adjustment < _HALF, "adjustment", "is more than 63 bits and a sign")


class SystemTime:
    """`now_ns` is the time that the clock counts by."""

    def __init__(self, values: dict[int, int], now_ns: Callable[[], int]) -> None:
        self._values = values
        self._now_ns = now_ns
        self._adjustment = 0

    def reset(self) -> None:
        self._adjustment = 0

    def save(self) -> SystemTimeRecord:
        return SystemTimeRecord(adjustment=self._adjustment)

    def restore(self, record: SystemTimeRecord) -> None:
        self._adjustment = record.adjustment

    def read_low(self) -> int:
        """A read of SYSTIML; SYSTIMH keeps the upper half of that moment."""
        now = self._ticks(self._values.get(r.TIMINCA, 0)) + self._adjustment
        self._values[r.SYSTIML], self._values[r.SYSTIMH] = now & _WORD, now >> 32 & _WORD
        return now & _WORD

    def read_high(self) -> int:
        return self._values.get(r.SYSTIMH, 0)

    def write_increment(self, value: int) -> None:
        """TIMINCA: the clock goes on from where it is."""
        before = self._ticks(self._values.get(r.TIMINCA, 0))
        self._values[r.TIMINCA] = value
        self._adjust(self._ticks(value) - before)

    def write_adjustment(self, high: int) -> None:
        """TIMADJH: move the clock by this and TIMADJL."""
        self._values[r.TIMADJH] = high
        self._adjust(high << 32 | self._values.get(r.TIMADJL, 0))

    def _adjust(self, by: int) -> None:
        moved = (self._adjustment + by) % _WHOLE
        self._adjustment = moved - _WHOLE if moved >= _HALF else moved

    def _ticks(self, increment: int) -> int:
        period = max(increment >> _PERIOD_SHIFT, 1) * _TICKS_PER_NS
        return self._now_ns() * (increment & _VALUE) // period

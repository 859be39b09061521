"""A timer of a chip on PCI: it counts at the speed of the bus, and reports when it passes a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vnic.net.clock import Scheduler, Timer
from vnic.record import U32, Record

_HZ: Final = 1e9 / 30  # a PCI clock of 33 MHz: QEMU's period of 30 ns
_ROUND: Final = 1 << 32


class BusTimerRecord(Record, frozen=True):
    count: U32
    compare: U32
    """0: none."""


class BusTimer:
    """The count and the value to compare it with. `expired` is called once for each round of 128 s, when the count
    passes that value."""

    def __init__(self, scheduler: Callable[[], Scheduler], expired: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._expired = expired
        self._call: Timer | None = None
        self._zero = 0.0
        """When the count was 0, by the scheduler's clock."""
        self.compare = 0

    def reset(self) -> None:
        self.write_compare(0)
        self._zero = self._scheduler().time()

    def close(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    @property
    def count(self) -> int:
        return self._ticks % _ROUND

    @property
    def _ticks(self) -> int:
        return round((self._scheduler().time() - self._zero) * _HZ)

    def write_count(self, _value: int) -> None:
        """Any write clears it."""
        self._zero = self._scheduler().time()
        self._schedule()

    def write_compare(self, value: int) -> None:
        self.compare = value
        self._schedule()

    def _schedule(self) -> None:
        self.close()
        if self.compare:
            self._call_after((self.compare - self.count - 1) % _ROUND + 1)

    def _call_after(self, ticks: int) -> None:
        self._call = self._scheduler().call_later(ticks / _HZ, self._run)

    def _run(self) -> None:
        self._call_after(_ROUND)
        self._expired()

    def save(self) -> BusTimerRecord:
        return BusTimerRecord(count=self.count, compare=self.compare)

    def restore(self, record: BusTimerRecord) -> None:
        self._zero = self._scheduler().time() - record.count / _HZ
        self.write_compare(record.compare)

"""The tally counters of C+ mode, which DTCCR dumps into the guest's memory (datasheet §6.3.2)."""

from __future__ import annotations

import struct
from typing import Final

from vnic.record import U64, Record, require

_LAYOUT: Final = struct.Struct("<QQQIHHIIQQIHH")
TALLY_BYTES: Final = 64
assert _LAYOUT.size == TALLY_BYTES
TX_OK, RX_OK, TX_ERROR, RX_ERROR, MISSED = range(5)
RX_OK_PHYSICAL, RX_OK_BROADCAST, RX_OK_MULTICAST, TX_ABORTED = range(8, 12)
_BITS: Final = (64, 64, 64, 32, 16, 16, 32, 32, 64, 64, 32, 16, 16)


class TallyRecord(Record, frozen=True):
    counters: list[U64]

    def check_fields(self) -> None:
        fits = len(self.counters) == len(_BITS) and not any(
            value >> bits for value, bits in zip(self.counters, _BITS, strict=True)
        )
        require(fits, "counters", "are not those of the chip")


class Tally:
    """The counters, which wrap at their width. Collisions never happen."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._counters = [0] * len(_BITS)

    def add(self, *which: int) -> None:
        for at in which:
            self._counters[at] = (self._counters[at] + 1) & ((1 << _BITS[at]) - 1)

    def dump(self) -> bytes:
        return _LAYOUT.pack(*self._counters)

    def save(self) -> TallyRecord:
        return TallyRecord(counters=list(self._counters))

    def restore(self, record: TallyRecord) -> None:
        self._counters = list(record.counters)

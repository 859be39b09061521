"""The counters that a driver has dumped into its memory (SDM §6.3.2.2)."""

from __future__ import annotations

import struct
from typing import Final

from vnic.record import U32, Record

_LAYOUT: Final = struct.Struct("<19IHH")
TX_GOOD: Final = 0
RX_GOOD: Final = 9
RX_NO_RESOURCES: Final = 12


class StatisticsRecord(Record, frozen=True):
    tx_good: U32
    rx_good: U32
    rx_no_resources: U32


class Statistics:
    """Frames that are damaged on the wire do not exist here: their counters stay 0."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._counts = dict.fromkeys((TX_GOOD, RX_GOOD, RX_NO_RESOURCES), 0)

    def count(self, which: int) -> None:
        self._counts[which] = (self._counts[which] + 1) & 0xFFFFFFFF

    def dump(self, size: int) -> bytes:
        values = [self._counts.get(at, 0) for at in range(21)]
        return _LAYOUT.pack(*values)[:size]

    def save(self) -> StatisticsRecord:
        tx_good, rx_good, rx_no_resources = self._counts.values()
        return StatisticsRecord(tx_good=tx_good, rx_good=rx_good, rx_no_resources=rx_no_resources)

    def restore(self, record: StatisticsRecord) -> None:
        counts = record.tx_good, record.rx_good, record.rx_no_resources
        self._counts = dict(zip((TX_GOOD, RX_GOOD, RX_NO_RESOURCES), counts, strict=True))

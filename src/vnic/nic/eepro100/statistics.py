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
        counts = self._counts
        return StatisticsRecord(
            tx_good=counts[TX_GOOD], rx_good=counts[RX_GOOD], rx_no_resources=counts[RX_NO_RESOURCES]
        )

    def restore(self, record: StatisticsRecord) -> None:
        self._counts = {
            TX_GOOD: record.tx_good,
            RX_GOOD: record.rx_good,
            RX_NO_RESOURCES: record.rx_no_resources,
        }

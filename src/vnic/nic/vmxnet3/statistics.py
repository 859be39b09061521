"""The counters of a queue, which GET_STATS copies into its descriptor (UPT1_TxStats, UPT1_RxStats)."""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec

from vnic.record import U64

_COUNT = 10
_LAYOUT = struct.Struct(f"<{_COUNT}Q")
assert _LAYOUT.size == 80

# Numbers of 64-bit counters: each is followed by its bytes, but for the last two.
TSO = 0  # of a received frame: LRO, which stays 0
_UNICAST, _MULTICAST, _BROADCAST = 2, 4, 6
TX_ERROR, TX_DISCARD = 8, 9
RX_NO_BUFFER, RX_ERROR = 8, 9

StatisticsRecord = Annotated[list[U64], msgspec.Meta(min_length=_COUNT, max_length=_COUNT)]


class Statistics:
    """One queue's."""

    def __init__(self, counts: list[int] | None = None) -> None:
        self.counts = counts or [0] * _COUNT

    def save(self) -> list[int]:
        return list(self.counts)

    def add(self, counter: int) -> None:
        self.counts[counter] += 1

    def passed(self, destination: bytes, size: int, frames: int = 1, *, segmented: bool = False) -> None:
        """Frames of one destination were sent or received, of `size` bytes in all."""
        kind = _UNICAST
        if destination[0] & 1:
            kind = _BROADCAST if destination == b"\xff" * 6 else _MULTICAST
        for at in (kind, TSO) if segmented else (kind,):
            self.counts[at] += frames
            self.counts[at + 1] += size

    def pack(self) -> bytes:
        return _LAYOUT.pack(*(count & (1 << 64) - 1 for count in self.counts))

"""What transmit and receive queues have in common: their rings, completions, statistics and record."""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec

from vnic.net.clock import Timer
from vnic.nic.pci_nic import PciNic
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.filter import RxFilter
from vnic.nic.vmxnet3.interrupts import Interrupts
from vnic.nic.vmxnet3.link import Link
from vnic.nic.vmxnet3.rings import CompletionRing, Ring, RingRecord
from vnic.record import U64, Record

MAX_FRAGMENTS: Final = 17
"""Limit on the buffers of one received frame: 9018 bytes in buffers of 1 KiB, and no more work than that."""

InterruptIndex = Annotated[int, msgspec.Meta(ge=0, lt=r.MAX_INTERRUPTS)]

# UPT1_TxStats and UPT1_RxStats: each counter of frames is followed by one of bytes, but for the last two.
_COUNTERS: Final = 10
_STATISTICS = struct.Struct(f"<{_COUNTERS}Q")
_TSO, _UNICAST, _MULTICAST, _BROADCAST = 0, 2, 4, 6
TX_ERROR, RX_NO_BUFFER, RX_ERROR = 8, 8, 9


class QueueRecord(Record, frozen=True):
    where: U64
    """The address of its descriptor in the shared area."""
    rings: list[RingRecord]
    completions: RingRecord
    interrupt: InterruptIndex
    counts: Annotated[list[U64], msgspec.Meta(min_length=_COUNTERS, max_length=_COUNTERS)] = msgspec.field(
        default_factory=lambda: [0] * _COUNTERS
    )
    paused: bool = False
    """Frames wait at the peer. If they are lost, call `TxQueue.resume` after `restore`."""
    pending: bool = False
    """It continues later, by itself."""


class QueueHost(PciNic):
    """The device, as its queues see it."""

    interrupts: Interrupts
    link: Link
    filter: RxFilter
    compound: bool
    """A received frame may continue in body buffers. Windows posts heads only."""
    fragments: int
    """The most buffers of one received frame."""
    rx_queues: int
    """How many the driver has set up."""


class Queue:
    """Made by ACTIVATE_DEV, or to go on as the record says; it ends with `close`."""

    def __init__(self, device: QueueHost, record: QueueRecord) -> None:
        self._device = device
        self.where, self.interrupt = record.where, record.interrupt
        self.rings = [Ring(each) for each in record.rings]
        self.completions = CompletionRing(record.completions)
        self._counts = list(record.counts)
        self._paused = record.paused
        self._timer: Timer | None = None
        if record.pending:
            self._later()

    def close(self) -> None:
        self._paused = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def save(self) -> QueueRecord:
        return QueueRecord(
            where=self.where,
            rings=[ring.save() for ring in self.rings],
            completions=self.completions.save(),
            interrupt=self.interrupt,
            counts=self._counts[:],
            paused=self._paused,
            pending=self._timer is not None,
        )

    def take_up(self) -> None:
        """After a restart: pass by what the process before has completed. Raises GuestMemoryError."""
        for word in self.completions.completed(self._device.dma, MAX_FRAGMENTS):
            second = len(self.rings) > 1 and word >> r.RCD_QUEUE_SHIFT & r.RCD_QUEUE_MASK
            ring = self.rings[bool(second)]
            if (index := word & r.INDEX_MASK) < ring.size:
                ring.pass_by(index)

    def count(self, counter: int) -> None:
        self._counts[counter] += 1

    def count_frames(self, destination: bytes, size: int, frames: int = 1) -> None:
        """Frames of one destination were sent or received, of `size` bytes in all. More than one are segments."""
        kind = _UNICAST
        if destination[0] & 1:
            kind = _BROADCAST if destination == b"\xff" * 6 else _MULTICAST
        for at in (kind, _TSO) if frames > 1 else (kind,):
            self._counts[at] += frames
            self._counts[at + 1] += size

    def statistics(self) -> bytes:
        """As the driver reads them."""
        return _STATISTICS.pack(*(count & (1 << 64) - 1 for count in self._counts))

    def _keep_sometimes(self) -> None:
        """Before a packet: `take_up` must find less than a lap of completions."""
        if self.completions.unsaved >= self.completions.size // 2:
            self._device.keep_record()
            self.completions.unsaved = 0

    def _later(self) -> None:
        """Continue by `_timer`."""

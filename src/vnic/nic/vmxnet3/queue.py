"""What transmit and receive queues have in common: their rings, completions, statistics and record.

A queue lives from ACTIVATE_DEV to `close`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.net.clock import Timer
from vnic.nic.pci_nic import PciNic
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.filter import RxFilter
from vnic.nic.vmxnet3.interrupts import Interrupts
from vnic.nic.vmxnet3.link import Link
from vnic.nic.vmxnet3.rings import CompletionRing, Ring, RingRecord
from vnic.nic.vmxnet3.shared import MAX_FRAGMENTS, Area, QueueConf
from vnic.nic.vmxnet3.statistics import Statistics, StatisticsRecord
from vnic.record import U32, U64, Record

InterruptIndex = Annotated[int, msgspec.Meta(ge=0, lt=r.MAX_INTERRUPTS)]


class QueueRecord(Record, frozen=True):
    where: U64
    rings: list[RingRecord]
    completions: RingRecord
    interrupt: InterruptIndex
    counts: StatisticsRecord
    error: U32
    paused: bool
    """Frames wait at the peer. If they are lost, call `TxQueue.resume` after `restore`."""
    pending: bool
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

    @property
    def rx_queues(self) -> int:
        """How many the driver has set up."""
        raise NotImplementedError

    def queue_error(self) -> None:
        """A queue was stopped: tell the driver."""
        raise NotImplementedError


class Queue:
    """`where` is the address of its descriptor in the shared area."""

    def __init__(self, device: QueueHost, conf: QueueConf) -> None:
        self._device = device
        self.where, self.interrupt = conf.where, conf.interrupt
        self.rings = [Ring(area) for area in conf.rings]
        self.completions = CompletionRing(conf.completions)
        self.statistics = Statistics()
        self.error = 0
        """Why it is stopped, as the driver reads it after GET_QUEUE_STATUS."""
        self._paused = False
        self._timer: Timer | None = None
        self._unsaved = 0

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
            counts=self.statistics.save(),
            error=self.error,
            paused=self._paused,
            pending=self._timer is not None,
        )

    def restore(self, record: QueueRecord) -> None:
        """Of a queue made with `conf_of`."""
        for ring, each in zip(
            (*self.rings, self.completions), (*record.rings, record.completions), strict=True
        ):
            ring.place = each.next, each.generation
        self.statistics = Statistics(record.counts)
        self.error, self._paused = record.error, record.paused
        if record.pending:
            self._later()

    def take_up(self) -> None:
        """After a restart: pass by what the process before has completed. Raises GuestMemoryError."""
        for word in self.completions.completed(self._device.dma, MAX_FRAGMENTS):
            number = bool(word >> r.RCD_QUEUE_SHIFT & r.RCD_QUEUE_MASK) and len(self.rings) > 1
            ring = self.rings[number]
            if (index := word & r.INDEX_MASK) < ring.size:
                ring.pass_by(index)

    def _keep_sometimes(self) -> None:
        """Between two packets: `take_up` must find less than a lap of completions."""
        if self._unsaved >= self.completions.size // 2:
            self._device.keep_record()
            self._unsaved = 0

    def _complete(self, completions: list[tuple[int, int, int, int]]) -> None:
        """Show the guest what is done. Raises GuestMemoryError."""
        self._unsaved += len(completions)
        self.completions.put(self._device.dma, completions)

    def _later(self) -> None:
        """Continue by a timer."""
        raise NotImplementedError


def conf_of(record: QueueRecord) -> QueueConf:
    areas = [Area(each.base, each.size) for each in (*record.rings, record.completions)]
    return QueueConf(record.where, areas[:-1], areas[-1], record.interrupt)

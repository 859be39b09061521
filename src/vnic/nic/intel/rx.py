"""The receive unit: puts frames from the wire into the guest's buffers, with interrupts and statistics.

The device model passes frames to it; SDM §3.2 and §13.4.22 specify it. The model says what a frame's descriptor tells
of it, which queue it goes to, and by which format (`rx_formats.py`) each queue's descriptors are read.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import msgspec

from vnic.memory.guest import GuestMemoryError
from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.filter import RCTL_VFE, AddressFilter
from vnic.nic.intel.interrupts import Interrupts
from vnic.nic.intel.link import Link
from vnic.nic.intel.rings import DESCRIPTOR_BYTES, DescriptorRing, DescriptorRingRecord
from vnic.nic.intel.rx_formats import DD, RXE, UNSHOWN, Arrival, Format, Legacy
from vnic.nic.intel.unit import UnitHost
from vnic.record import U32, Record, require

# RCTL, SDM §13.4.22
RCTL_EN = 1 << 1
_RCTL_SBP = 1 << 2
_RCTL_LPE = 1 << 5
_RCTL_BSEX = 1 << 25
_RCTL_SECRC = 1 << 26
_RDMTS_SHIFT = 8
_BSIZE_SHIFT = 16

_MIN_BYTES = 60
_FCS_BYTES = 4
_ETH_BYTES = 14
_TAG_BYTES = 4
_MAX_SHORT_BYTES = 1500 + _ETH_BYTES + _TAG_BYTES
_MAX_LONG_BYTES = 16384 - _FCS_BYTES

EMPTY_PER_FRAME = 16
"""Limit on descriptors without a buffer that one frame skips. No driver posts any; a ring of 65528 of them would
block the loop for 0.2 s."""


def buffer_bytes(rctl: int) -> int:
    """The size of every receive buffer (RCTL.BSIZE and BSEX)."""
    code = rctl >> _BSIZE_SHIFT & 3
    if rctl & _RCTL_BSEX and code:
        return 32768 >> code
    return 2048 >> code


class ReceiveQueueRecord(Record, frozen=True):
    ring: DescriptorRingRecord
    waits: bool
    """The next frame was offered before."""


class ReceiverRecord(ReceiveQueueRecord, frozen=True):
    """With the first queue."""

    rctl: U32
    further: list[ReceiveQueueRecord] = msgspec.field(default_factory=list)


class ReceiveHost(UnitHost, Protocol):
    """The device, as the receive unit sees it."""

    @property
    def link(self) -> Link: ...

    @property
    def interrupts(self) -> Interrupts:
        """For causes that do not wait for a write to memory."""

    @property
    def bus_master(self) -> bool: ...

    def arrival(self, frame: bytes, tag: int | None, /) -> Arrival:
        """What is to be told of a frame, from which a VLAN tag was taken or not, and where it goes."""

    def receive_causes(self, queue: int, low: bool, /) -> int:
        """The interrupt causes of a frame in `queue`. `low`: it made the descriptors fewer than the threshold."""


class ReceiveQueue:
    """A ring of receive descriptors, and the format of these."""

    def __init__(self, number: int, device: ReceiveHost) -> None:
        self._device = device
        self.number = number
        self.ring = DescriptorRing(c.queue(number).rx)
        self.reset()

    def reset(self) -> None:
        self.ring.reset()
        self.waits = False
        self.format: Format = Legacy(2048)

    def save(self) -> ReceiveQueueRecord:
        return ReceiveQueueRecord(ring=self.ring.save(), waits=self.waits)

    def restore(self, record: ReceiveQueueRecord) -> None:
        """The format follows from registers: the model sets it."""
        self.waits = record.waits
        self.ring.restore(record.ring)

    def take_up(self, cells: memoryview) -> None:
        """The process before was killed: show the guest the frame that is complete and was not shown. The guest sees
        the descriptors in order, so its first one tells whether any was.

        A frame that was not written back in full is lost, and its buffers are free; or, if some of their addresses were
        overwritten, it becomes a frame with an error.
        """
        ring, dma = self.ring, self._device.dma
        if (
            self._device.shadow is not None
        ):  # frames that are not on their way are lost, and their buffers free
            waiting = len(ring.take_up(cells))
            ring.head = (ring.head - waiting) % ring.count if waiting else ring.head
            ring.keep_head()
            return
        numbers = ring.take_up(cells)[:: self.format.units]
        status_at = self.format.status_at
        wheres = [ring.address(number % ring.count) + status_at for number in numbers]
        try:
            shown = [_is_unshown(dma.read(where, 1)[0]) for where in wheres]
            partly = bool(ring.flags) and not all(shown)
            if partly and not (self.format.overwrites and any(shown)):
                for where, written in zip(wheres, shown, strict=True):
                    if written:
                        dma.write(where, b"\0")
                ring.head = numbers[0] % ring.count
                ring.keep_head()
                return
            if partly:
                self._write_back([where - status_at for where in wheres], self._lost(len(wheres)))
            if wheres and _is_unshown(dma.read(wheres[0], 1)[0]):
                for where in reversed(wheres):
                    status = dma.read(where, 1)[0]
                    if _is_unshown(status):
                        dma.write(where, bytes((status & ~UNSHOWN | DD,)))
            ring.keep_head()
        except GuestMemoryError as error:
            self._device.bus_error("RX", error)
        ring.keep_written()

    def _lost(self, count: int) -> list[tuple[int, bytes, int]]:
        """What is written back for a frame with an error, of so many descriptors."""
        nothing = self.format.cut(b"", 0)[0]
        last = count - 1
        return [
            self.format.written_back(nothing, Arrival(RXE) if at == last else None) for at in range(count)
        ]

    def _write_back(self, wheres: list[int], written: list[tuple[int, bytes, int]]) -> None:
        """Show what is in the buffers of each descriptor, without Descriptor Done."""
        for where, (at, data, _) in zip(wheres, written, strict=True):
            self._device.dma.write(where + at, data)

    def fill(self, parts: list[tuple[bytes, ...]], arrival: Arrival) -> bool:
        """Write the frame into the buffers of the next descriptors. False: the ring or the limit on skipped descriptors
        was exhausted. Raises GuestMemoryError."""
        ring, dma, layout = self.ring, self._device.dma, self.format
        units, size = layout.units, layout.units * DESCRIPTOR_BYTES
        nothing = tuple(b"" for _ in parts[0])
        done = 0
        wheres: list[int] = []
        written: list[tuple[int, bytes, int]] = []
        for _ in range(min(ring.available // units, len(parts) + EMPTY_PER_FRAME)):
            where = ring.address(ring.head)
            addresses = layout.addresses(dma.read(where, size))
            pieces = nothing
            if addresses[0]:  # a descriptor without a buffer is passed over (§3.2.3)
                pieces = parts[done]
                for address, piece in zip(addresses, pieces, strict=True):
                    if piece:
                        dma.write(address, piece)
                done += 1
            last = done == len(parts)
            wheres.append(where)
            written.append(layout.written_back(pieces, arrival if last else None))
            ring.advance(units)
            if last:
                break
        ring.keep_head(c.HALF)
        self._write_back(wheres, written)
        ring.keep_head()
        # The guest may poll: Descriptor Done comes last, and that of the first descriptor, for which it waits, after
        # those of the others.
        for where, (_, _, status) in zip(reversed(wheres), reversed(written), strict=True):
            dma.write(where + layout.status_at, bytes((status,)))
        ring.keep_written(self._device.shadow)
        return done == len(parts)


class Receiver:
    """The receive unit: RCTL and its queues."""

    def __init__(self, device: ReceiveHost, address_filter: AddressFilter, queues: int = 1) -> None:
        self._device = device
        self._filter = address_filter
        self.queues = [ReceiveQueue(number, device) for number in range(queues)]
        self.rctl = 0

    @property
    def ring(self) -> DescriptorRing:
        """Of the first queue."""
        return self.queues[0].ring

    def reset(self) -> None:
        self.rctl = 0
        for queue in self.queues:
            queue.reset()

    def use_cells(self, cells: memoryview) -> None:
        """Go on in these cells, whose values are the same."""
        for queue in self.queues:
            queue.ring.use_cells(cells)

    def save(self) -> ReceiverRecord:
        first, *further = self.queues
        return ReceiverRecord(
            rctl=self.rctl,
            ring=first.ring.save(),
            waits=first.waits,
            further=[queue.save() for queue in further],
        )

    def check(self, record: ReceiverRecord) -> None:
        """Raise RecordError unless it has as many queues."""
        wanted = len(self.queues) - 1
        require(len(record.further) == wanted, "further", f"are {len(record.further)}, not {wanted}")

    def restore(self, record: ReceiverRecord) -> None:
        """Take a checked record. The model sets the queues' formats next."""
        self.rctl = record.rctl
        for queue, each in zip(self.queues, (record, *record.further), strict=True):
            queue.restore(each)

    def take_up(self, cells: memoryview) -> None:
        """After `restore`: the process before was killed, and the cells are newer than its record."""
        for queue in self.queues:
            queue.take_up(cells)

    @property
    def enabled(self) -> bool:
        return bool(self.rctl & RCTL_EN)

    def receive(self, frame: bytes | bytearray | memoryview, *, looped: bool = False) -> bool:
        """Take one frame from the wire. False: no buffer is free now; offer it again when RDT moves.

        The queue of waiting frames represents the chip's FIFO: a frame counts as missed when that is full. With the
        receiver off or the link down the frame is dropped; a frame that the PHY loops back needs no link.
        """
        device = self._device
        if not self.enabled or not (looped or device.link.up) or not device.bus_master:
            return True
        data = bytes(frame).ljust(_MIN_BYTES, b"\0") if len(frame) < _MIN_BYTES else bytes(frame)
        size = len(data)
        longest = _MAX_LONG_BYTES if self.rctl & _RCTL_LPE else _MAX_SHORT_BYTES
        if size > longest and not self.rctl & _RCTL_SBP:
            device.statistics.add(regs.ROC)
            return True
        destination = data[:6]
        if not self._filter.accepts(destination, self.rctl):
            return True
        fcs = b"" if self.rctl & _RCTL_SECRC else zlib.crc32(data).to_bytes(_FCS_BYTES, "little")
        tag = None
        values = device.values
        if int.from_bytes(data[12:14], "big") == values.get(regs.VET, 0) & 0xFFFF:
            tci = int.from_bytes(data[14:16], "big")
            if self.rctl & RCTL_VFE and not self._filter.accepts_vlan(tci):
                return True
            if values.get(regs.CTRL, 0) & regs.CTRL_VME:
                data, tag = data[:12] + data[16:], tci
        return self._store(data + fcs, size, destination, device.arrival(data, tag))

    def _store(self, data: bytes, size: int, destination: bytes, arrival: Arrival) -> bool:
        """Put a frame into as many buffers as it needs, and report it."""
        device, queue = self._device, self.queues[arrival.queue]
        ring = queue.ring
        if not ring.usable:
            device.complain(
                "RX ring", f"RDH {ring.head} or RDT {ring.tail} outside of {ring.count} descriptors"
            )
            return True
        parts = queue.format.cut(data, arrival.header_bytes)
        needed = len(parts) * queue.format.units
        if needed > ring.available:
            if not queue.waits:
                device.statistics.add(regs.RNBC)
            queue.waits = needed < ring.count
            if not queue.waits:
                self.missed()  # it would never fit
            return not queue.waits
        queue.waits = False
        head, posted = ring.head, ring.posted
        try:
            if not queue.fill(parts, arrival):
                # Descriptors without a buffer used up what there was; those passed stay passed.
                self.missed()
                return True
        except GuestMemoryError as error:
            ring.head = head
            ring.keep_head()
            device.bus_error("RX", error)
            self.missed()
            return True
        device.statistics.received(size, destination)
        threshold = ring.count >> ((self.rctl >> _RDMTS_SHIFT & 3) + 1)
        # When it is reached (§3.2.7.3), not while it stays so.
        causes = device.receive_causes(arrival.queue, ring.posted <= threshold < posted) | arrival.causes
        if len(data) <= device.values.get(regs.RSRPD, 0):  # as stored, §3.2.7.2
            causes |= regs.ICR_SRPD
        device.interrupt(causes)
        return True

    def missed(self) -> None:
        """A frame was dropped for lack of room; only this sets RXO (§13.4.17, §13.7.6)."""
        self._device.statistics.add(regs.MPC)
        self._device.interrupts.set(regs.ICR_RXO)


def _is_unshown(status: int) -> bool:
    return status & (UNSHOWN | DD) == UNSHOWN

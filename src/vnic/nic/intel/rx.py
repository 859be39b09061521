"""The receive unit: puts frames from the wire into the guest's buffers, with interrupts and statistics.

The device model passes frames to it; SDM §3.2 and §13.4.22 specify it. It uses legacy descriptors, which all models
support; the 8254x has no others.
"""

from __future__ import annotations

import struct
import zlib
from typing import Protocol

from vnic.memory.guest import GuestMemoryError
from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.filter import RCTL_VFE, AddressFilter
from vnic.nic.intel.interrupts import Interrupts
from vnic.nic.intel.link import Link
from vnic.nic.intel.rings import DESCRIPTOR_BYTES, DescriptorRing, DescriptorRingRecord
from vnic.nic.intel.unit import UnitHost
from vnic.record import U32, Record

# RCTL, SDM §13.4.22
RCTL_EN = 1 << 1
_RCTL_SBP = 1 << 2
_RCTL_LPE = 1 << 5
_RCTL_BSEX = 1 << 25
_RCTL_SECRC = 1 << 26
_RDMTS_SHIFT = 8
_BSIZE_SHIFT = 16

# Descriptor status, SDM §3.2.3.1
_DD = 1 << 0
_EOP = 1 << 1
_IXSM = 1 << 2
_VP = 1 << 3
_PIF = 1 << 7
_UNSHOWN = _PIF
"""In the status of a descriptor that is filled, and not done yet: no driver looks at it before DD is set, and the
process that takes our place can tell such a descriptor from one that the guest has posted again."""

_ADDRESS = struct.Struct("<Q")
_WRITEBACK = struct.Struct("<HHBBH")  # length, checksum, status, errors, special; from byte 8
assert _ADDRESS.size + _WRITEBACK.size == DESCRIPTOR_BYTES
_STATUS_AT = 12

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


class ReceiverRecord(Record, frozen=True):
    rctl: U32
    ring: DescriptorRingRecord
    waits: bool
    """The next frame was offered before."""


class ReceiveHost(UnitHost, Protocol):
    """The device, as the receive unit sees it."""

    @property
    def link(self) -> Link: ...

    @property
    def interrupts(self) -> Interrupts:
        """For causes that do not wait for a write to memory."""

    @property
    def bus_master(self) -> bool: ...


class Receiver:
    """The receive unit: RCTL and its ring."""

    def __init__(self, device: ReceiveHost, address_filter: AddressFilter) -> None:
        self._device = device
        self._filter = address_filter
        self.ring = DescriptorRing(c.RX)
        self.reset()

    def reset(self) -> None:
        self.ring.reset()
        self.rctl = 0
        self._waits = False

    def save(self) -> ReceiverRecord:
        return ReceiverRecord(rctl=self.rctl, ring=self.ring.save(), waits=self._waits)

    def restore(self, record: ReceiverRecord) -> None:
        self.rctl, self._waits = record.rctl, record.waits
        self.ring.restore(record.ring)

    def take_up(self, cells: memoryview) -> None:
        """The process before was killed: show the guest the frame that is complete and was not shown. The guest sees
        the descriptors in order, so its first one tells whether any was."""
        ring, dma = self.ring, self._device.dma
        if (
            self._device.shadow is not None
        ):  # frames that are not on their way are lost, and their buffers free
            waiting = len(ring.take_up(cells))
            ring.head = (ring.head - waiting) % ring.count if waiting else ring.head
            ring.keep_head()
            return
        wheres = [ring.address(number % ring.count) + _STATUS_AT for number in ring.take_up(cells)]
        try:
            if wheres and _is_unshown(dma.read(wheres[0], 1)[0]):
                for where in reversed(wheres):
                    status = dma.read(where, 1)[0]
                    if _is_unshown(status):
                        dma.write(where, bytes((status & ~_UNSHOWN | _DD,)))
        except GuestMemoryError as error:
            self._device.bus_error("RX", error)
        ring.keep_written()

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
        if len(frame) < _MIN_BYTES:
            frame = bytes(frame).ljust(_MIN_BYTES, b"\0")
        size = len(frame)
        longest = _MAX_LONG_BYTES if self.rctl & _RCTL_LPE else _MAX_SHORT_BYTES
        if size > longest and not self.rctl & _RCTL_SBP:
            device.statistics.add(regs.ROC)
            return True
        destination = bytes(frame[:6])
        if not self._filter.accepts(destination, self.rctl):
            return True
        fcs = b"" if self.rctl & _RCTL_SECRC else zlib.crc32(frame).to_bytes(_FCS_BYTES, "little")
        status, special = _IXSM, 0
        values = device.values
        if int.from_bytes(frame[12:14], "big") == values.get(regs.VET, 0):
            tci = int.from_bytes(frame[14:16], "big")
            if self.rctl & RCTL_VFE and not self._filter.accepts_vlan(tci):
                return True
            if values.get(regs.CTRL, 0) & regs.CTRL_VME:
                frame = b"".join((frame[:12], frame[16:]))
                status, special = _IXSM | _VP, tci
        return self._store(b"".join((frame, fcs)), size, destination, status, special)

    def _store(self, data: bytes, size: int, destination: bytes, status: int, special: int) -> bool:
        """Put a frame into as many buffers as it needs, and report it."""
        device, ring = self._device, self.ring
        buffer_size = buffer_bytes(self.rctl)
        if not ring.usable:
            device.complain(
                "RX ring", f"RDH {ring.head} or RDT {ring.tail} outside of {ring.count} descriptors"
            )
            return True
        if len(data) > ring.available * buffer_size:
            if not self._waits:
                device.statistics.add(regs.RNBC)
            self._waits = len(data) <= (ring.count - 1) * buffer_size
            if not self._waits:
                self.missed()  # it would never fit
            return not self._waits
        self._waits = False
        head, posted = ring.head, ring.posted
        try:
            if not self._fill(data, buffer_size, status, special):
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
        causes = regs.ICR_RXT0
        threshold = ring.count >> ((self.rctl >> _RDMTS_SHIFT & 3) + 1)
        if ring.posted <= threshold < posted:  # when it is reached (§3.2.7.3), not while it stays so
            causes |= regs.ICR_RXDMT0
        if len(data) <= device.values.get(regs.RSRPD, 0):  # as stored, §3.2.7.2
            causes |= regs.ICR_SRPD
        device.interrupt(causes)
        return True

    def missed(self) -> None:
        """A frame was dropped for lack of room; only this sets RXO (§13.4.17, §13.7.6)."""
        self._device.statistics.add(regs.MPC)
        self._device.interrupts.set(regs.ICR_RXO)

    def _fill(self, data: bytes, buffer_size: int, status: int, special: int) -> bool:
        """Write the frame into the next buffers. False: the ring or the limit on skipped descriptors was exhausted.
        Raises GuestMemoryError."""
        ring, dma = self.ring, self._device.dma
        at = 0
        needed = -(-len(data) // buffer_size)
        filled: list[tuple[int, int]] = []
        for _ in range(min(ring.available, needed + EMPTY_PER_FRAME)):
            where = ring.address(ring.head)
            address = _ADDRESS.unpack(dma.read(where, _ADDRESS.size))[0]
            piece = b""
            if address:  # a descriptor without a buffer is passed over (§3.2.3)
                piece = data[at : at + buffer_size]
                dma.write(address, piece)
                at += len(piece)
            now = status | _EOP if at >= len(data) else status & ~_IXSM
            dma.write(where + 8, _WRITEBACK.pack(len(piece), 0, now | _UNSHOWN, 0, special))
            filled.append((where + _STATUS_AT, now | _DD))
            ring.advance()
            if at >= len(data):
                break
        ring.keep_head()
        # The guest may poll: Descriptor Done comes last, and that of the first descriptor, for which it waits, after
        # those of the others.
        for where, now in reversed(filled):
            dma.write(where, bytes((now,)))
        ring.keep_written(self._device.shadow)
        return at >= len(data)


def _is_unshown(status: int) -> bool:
    return status & (_UNSHOWN | _DD) == _UNSHOWN

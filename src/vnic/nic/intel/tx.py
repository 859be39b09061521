"""The transmit unit: makes frames from the guest's descriptors, with VLAN tags, checksums and segmentation.

The device model kicks it when TDT or TCTL is written; SDM §3.3 to §3.5 describe the rest. Descriptors are the legacy
and the extended ones, which the 8254x and the 82574 have alike; `offloads.py` does what their contexts ask for.
"""

from __future__ import annotations

import struct
from typing import Annotated, Protocol

import msgspec

from vnic.memory.guest import GuestMemoryError
from vnic.net import offload
from vnic.net.clock import Scheduler, Timer
from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.offloads import ETH_BYTES, Context, ContextRecord, owe_checksum, segmented, with_checksum
from vnic.nic.intel.rings import DESCRIPTOR_BYTES, DescriptorRing, DescriptorRingRecord
from vnic.nic.intel.unit import UnitHost
from vnic.record import U8, U16, U32, Record, require

# TCTL, SDM §13.4.33
TCTL_EN = 1 << 1
_TCTL_PSP = 1 << 3

_DESCRIPTOR = struct.Struct("<QII")
assert _DESCRIPTOR.size == DESCRIPTOR_BYTES
_STATUS_AT = 12

# The second last dword of a descriptor: command bits, SDM §3.3.3, §3.3.6, §3.3.7
_EOP = 1 << 24
_IC = 1 << 26
_TSE = 1 << 26  # where DEXT is set
_RS = 1 << 27
_RPS = 1 << 28
_DEXT = 1 << 29
_VLE = 1 << 30
_TYPE_MASK = 0xF << 20
_TYPE_DATA = 1 << 20
# POPTS of a data descriptor
_IXSM = 1 << 0
_TXSM = 1 << 1
_DD = 1 << 0
_LWTHRESH_SHIFT = 25  # of TXDCTL, §13.4.43: in units of eight descriptors
_ERRORS = 0xE  # excess collisions, late collision, underrun: cleared when done

MAX_FRAME_BYTES = offload.MAX_FRAME_BYTES
"""The longest frame, or frame to be segmented, that is collected; the rest of a longer one is not even read."""
_MIN_BYTES = 60
_TAG_BYTES = 4

_WORK_BYTES = 2048
FETCH = 32
"""Descriptors read from the ring at once."""
WORK_PER_TURN = 256
"""Limit on the work of one turn of the loop, so that other NICs get theirs. A descriptor counts 1, each 2 KiB of its
buffer 1, each segment made from it 1."""


def buffer_of(descriptor: bytes) -> tuple[int, int]:
    """Where a descriptor's buffer is, and its length; 0 for one that has none."""
    address, lower, _ = _DESCRIPTOR.unpack(descriptor)
    if not lower & _DEXT:
        return address, lower & 0xFFFF
    return address, lower & 0xFFFFF if lower & _TYPE_MASK == _TYPE_DATA else 0


class TransmitterRecord(Record, frozen=True):
    """The transmit unit in the middle of its ring, and of a frame."""

    tctl: U32
    ring: DescriptorRingRecord
    paused: bool
    """Frames wait at the peer. If they are lost, call `Transmitter.resume` after `restore`."""
    pending: bool
    """It continues in the next turn of the loop."""
    checksum: ContextRecord
    segmentation: ContextRecord
    collected: Annotated[bytes, msgspec.Meta(max_length=MAX_FRAME_BYTES)]
    options: U8
    segment: bool
    tag: U16 | None
    bad: bool
    """The frame is not sent when it is complete."""

    def check_fields(self) -> None:
        require(not (self.bad and self.collected), "collected", "is of a frame that is not sent")


class TransmitHost(UnitHost, Protocol):
    """The device, as the transmit unit sees it."""

    @property
    def scheduler(self) -> Scheduler: ...

    def transmit(self, frame: bytes, header: bytes, /) -> bool:
        """Put a frame on the wire. False: it waits at the peer, and `Transmitter.resume` will be called."""

    def keep_record(self) -> None:
        """Save the device now."""

    def transmit_causes(self, queue: int, /) -> int:
        """The interrupt causes of descriptors of `queue` that are done."""


class Transmitter:
    """The transmit unit: TCTL, a ring, both contexts and the frame that is being collected. A chip with several rings
    has one of these for each, with the same TCTL."""

    buffer_of = staticmethod(buffer_of)

    def __init__(self, device: TransmitHost, queue: int = 0) -> None:
        self._device = device
        self.queue = queue
        self._places = c.queue(queue)
        self._cells = c.plain(queue + 1)
        self.ring = DescriptorRing(self._places.tx)
        self.reports_all = False
        """Every descriptor is shown as done, also where the guest did not ask (82574, IVAR bit 31)."""
        self._contexts = [Context(), Context()]
        """That for checksums, and that for segmentation."""
        self._timer: Timer | None = None
        self._running = False
        self._tag: int | None = None
        self.reset()

    def reset(self) -> None:
        self._cancel()
        self.ring.reset()
        self.tctl = 0
        self._paused = False
        self._set_context(False, Context())
        self._set_context(True, Context())
        self._owed: list[tuple[int, int]] = []
        """The descriptors that are done and have to be shown as done: where, and the status."""
        self._start_frame()

    def close(self) -> None:
        self._cancel()

    def save(self) -> TransmitterRecord:
        return TransmitterRecord(
            tctl=self.tctl,
            ring=self.ring.save(),
            paused=self._paused,
            pending=self._timer is not None,
            checksum=self._contexts[0].save(),
            segmentation=self._contexts[1].save(),
            collected=b"".join(self._parts),
            options=self._options,
            segment=self._segment,
            tag=self._tag,
            bad=self._bad,
        )

    def restore(self, record: TransmitterRecord) -> None:
        self.reset()
        self.tctl, self._paused = record.tctl, record.paused
        self.ring.restore(record.ring)
        self._set_context(False, Context.of(record.checksum))
        self._set_context(True, Context.of(record.segmentation))
        if record.collected:
            self._parts.append(record.collected)
        self._size = len(record.collected)
        self._options, self._segment, self._tag, self._bad = (
            record.options,
            record.segment,
            record.tag,
            record.bad,
        )
        self._begun = bool(self._size or self._options or self._segment or self._bad or self._tag is not None)
        if record.pending:
            self._later()

    def use_cells(self, cells: memoryview) -> None:
        """Go on in these cells, whose values are the same."""
        self._cells = cells
        self.ring.use_cells(cells)

    def take_up(self, cells: memoryview) -> None:
        """After `restore`: the process before was killed, and the cells are newer than its record. A frame whose last
        descriptor is before the head was sent, or is lost: the guest is told that it is done."""
        recorded = self.ring.head
        ring, dma = self.ring, self._device.dma
        self._cells = cells
        done = ring.take_up(cells)
        self._set_contexts_of_cells()
        if cells[self._places.tx + c.RING.head] != recorded | c.HALF:
            self._start_frame()
        try:
            for number in done:
                where = ring.address(number % ring.count)
                if (
                    self._device.shadow is not None
                ):  # it is not here; where the guest did not ask, it does not look
                    dma.write(where + _STATUS_AT, bytes((_DD,)))
                    continue
                _, lower, upper = _DESCRIPTOR.unpack(dma.read(where, DESCRIPTOR_BYTES))
                if lower & (_RS | _RPS) or self.reports_all:
                    dma.write(where + _STATUS_AT, bytes((upper & 0xFF & ~_ERRORS | _DD,)))
        except GuestMemoryError as error:
            self._device.bus_error("TX", error)
        ring.keep_written(self._device.shadow)
        self._later()

    @property
    def enabled(self) -> bool:
        return bool(self.tctl & TCTL_EN)

    @property
    def low_threshold(self) -> int:
        """TXD_LOW is set when there are fewer descriptors (TXDCTL.LWTHRESH)."""
        control = self._device.values.get(regs.TXDCTL + regs.QUEUE_BYTES * self.queue, 0)
        return 8 * (control >> _LWTHRESH_SHIFT)

    @property
    def inserts_tags(self) -> bool:
        """Whether the guest has turned VLAN tags on (CTRL.VME)."""
        return bool(self._device.values.get(regs.CTRL, 0) & regs.CTRL_VME)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_frame(self) -> None:
        self._begun = False
        """A descriptor of a frame was carried out whose last one was not."""
        self._parts: list[bytes] = []
        self._size = 0
        self._options = 0
        self._segment = False
        self._tag = None
        self._bad = False

    # --- Working on the ring ---

    def kick(self) -> None:
        """The guest moved TDT or wrote TCTL: work now, for one turn at the most."""
        if not self._running and self._timer is None:
            self._work()

    def resume(self) -> None:
        """The peer took the waiting frames; continue in a new turn of the loop."""
        if self._paused:
            self._paused = False
            self._later()

    def _later(self) -> None:
        if self._timer is None:
            self._timer = self._device.scheduler.call_soon(self._continue)

    def _continue(self) -> None:
        self._timer = None
        self._work()

    def _work(self) -> None:
        device, ring = self._device, self.ring
        if self._paused or not self.enabled or ring.head == ring.tail:
            return
        if not ring.usable:
            device.complain(
                "TX ring", f"TDH {ring.head} or TDT {ring.tail} outside of {ring.count} descriptors"
            )
            return
        causes = 0
        pending = ring.posted
        budget = WORK_PER_TURN
        self._running = True
        try:
            while budget > 0 and ring.head != ring.tail and not self._paused:
                done, spent = self._run()
                causes |= done
                budget -= spent
            if self._begun:
                device.keep_record()
                ring.keep_head(c.HALF)
                causes |= self._write_back()
        except GuestMemoryError as error:
            # The ring is unmapped: stop until the guest writes TDT again.
            device.bus_error("TX", error)
        finally:
            self._running = False
        if ring.posted < self.low_threshold <= pending:
            causes |= regs.ICR_TXD_LOW
        if not ring.posted:
            causes |= regs.ICR_TXQE
        if ring.head != ring.tail and budget <= 0 and not self._paused:
            self._later()
        if causes:
            device.interrupt(causes)

    def _run(self) -> tuple[int, int]:
        """Work on the next descriptors that lie in a row; returns interrupt causes and the work spent.

        Raises GuestMemoryError where the ring cannot be read or written back.
        """
        ring, dma = self.ring, self._device.dma
        end = ring.tail if ring.tail > ring.head else ring.count
        first = ring.address(ring.head)
        fetched = dma.read(first, min(end - ring.head, FETCH) * DESCRIPTOR_BYTES)
        causes = spent = 0
        for number, (address, lower, upper) in enumerate(_DESCRIPTOR.iter_unpack(fetched)):
            if lower & (_RS | _RPS) or self.reports_all:
                where = first + number * DESCRIPTOR_BYTES + _STATUS_AT
                self._owed.append((where, upper & 0xFF & ~_ERRORS | _DD))
            ring.advance()
            spent += 1 + self._descriptor(address, lower, upper)
            if not self._begun:
                ring.keep_head()
                causes |= self._write_back()
            if self._paused or spent >= WORK_PER_TURN:
                break
        return causes, spent

    def _write_back(self) -> int:
        """Show the guest which descriptors are done, up to the head; returns interrupt causes. Until the frame of a
        descriptor is sent, or saved, its buffer is still needed. Raises GuestMemoryError."""
        owed, self._owed = self._owed, []
        for where, status in owed:
            self._device.dma.write(where, bytes((status,)))
        self.ring.keep_written(self._device.shadow)
        return self._device.transmit_causes(self.queue) if owed else 0

    def _set_context(self, tse: bool, context: Context) -> None:
        self._contexts[tse] = context
        at = self._places.contexts + 2 * tse
        self._cells[at], self._cells[at + 1] = context.words()

    def _set_contexts_of_cells(self) -> None:
        first = self._places.contexts
        words = self._cells[first : first + 4]
        self._contexts = [Context.of_words(words[at], words[at + 1]) for at in (0, 2)]

    def _context(self) -> Context:
        """The context that counts for the collected frame."""
        return self._contexts[self._segment]

    def _descriptor(self, address: int, lower: int, upper: int) -> int:
        """Carry out one descriptor, which the ring's head has passed; returns the work it was, beyond reading it."""
        extended = lower & _DEXT
        if extended and lower & _TYPE_MASK != _TYPE_DATA:
            if not lower & _TYPE_MASK:
                self._set_context(bool(lower & _TSE), Context.parse(address, lower, upper))
            return 0  # other types are reserved
        self._begun = True
        if extended:
            length = lower & 0xFFFFF
            if not self._size:
                self._options = upper >> 8 & 0xFF
            self._segment = self._segment or bool(lower & _TSE)
        else:
            length = lower & 0xFFFF
        if lower & _VLE and lower & (_EOP | (_TSE if extended else 0)):
            self._tag = upper >> 16
        work = self._collect(address, length)
        if not lower & _EOP:
            return work
        legacy_checksum = None
        if not extended and lower & _IC:
            legacy_checksum = Context(start=upper >> 8 & 0xFF, at=lower >> 16 & 0xFF)
        self.ring.keep_head()  # killed from here on, the frame is sent by no other process
        try:
            return work if self._bad or self._size < ETH_BYTES else work + self._send(legacy_checksum)
        finally:
            self._start_frame()

    def _collect(self, address: int, length: int) -> int:
        """Add a buffer to the frame. What cannot be read, or grows too long, makes it a frame that is not sent."""
        if self._bad or not length:
            return 0
        if self._size + length > MAX_FRAME_BYTES:
            self._bad = True
            self._parts.clear()
            self._device.complain("TX length", f"a frame of more than {MAX_FRAME_BYTES} bytes is not sent")
            return 0
        try:
            self._parts.append(self._device.dma.read(address, length))
        except GuestMemoryError as error:
            self._bad = True
            self._parts.clear()
            self._device.bus_error("TX", error)
            return 0
        self._size += length
        return length // _WORK_BYTES

    # --- Sending a frame ---

    def _send(self, legacy_checksum: Context | None) -> int:
        frame = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self.tctl & _TCTL_PSP and not self._segment:  # it would become payload of the segments
            frame = frame.ljust(_MIN_BYTES, b"\0")
        shift = 0
        device, context = self._device, self._context()
        if self._tag is not None and self.inserts_tags:
            tag = struct.pack(">HH", device.values.get(regs.VET, 0) & 0xFFFF, self._tag)
            frame = b"".join((frame[:12], tag, frame[12:]))
            shift = _TAG_BYTES
        try:
            if self._segment:
                whole = segmented(frame, context, shift, ip_checksum=bool(self._options & _IXSM))
                device.statistics.transmitted(whole.sizes, whole.frame[:6])
                device.statistics.add(regs.TSCTC)
                self._transmit(whole.frame, whole.header)
                return whole.full
            header = b""
            if legacy_checksum is not None:
                frame, header = owe_checksum(frame, legacy_checksum, shift)
            else:
                if self._options & _IXSM:
                    end = context.ip_end and context.ip_end + shift
                    frame = with_checksum(frame, context.ip_start + shift, context.ip_at + shift, end)
                if self._options & _TXSM:
                    frame, header = owe_checksum(frame, context, shift)
        except offload.OffloadError as error:
            device.complain("TX offload", str(error))
            return 0
        device.statistics.transmitted([(len(frame), 1)], frame[:6])
        self._transmit(frame, header)
        return 0

    def _transmit(self, frame: bytes, header: bytes) -> None:
        if not self._device.transmit(frame, header):
            self._paused = True

"""The transmit unit: the four descriptors of C mode, which are registers, and the descriptor ring of C+ mode.

The device kicks it when the guest writes TSD (datasheet §6.3) or polls by TPPOLL (§6.32). It works in a turn of the
loop of its own: the register access is done by then, and no process carries it out twice.
"""

from __future__ import annotations

from typing import Annotated, Final, Protocol

import msgspec

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import Plan, Range, copy
from vnic.net.clock import Scheduler, Timer
from vnic.net.offload import OffloadError
from vnic.nic.ipv4_offload import Asked, offloaded
from vnic.nic.owned_ring import COUNT, FIRST, LAST, OWN, Descriptor, OwnedRing, OwnedRingRecord
from vnic.nic.rtl8139 import registers as r
from vnic.nic.rtl8139 import tally as t
from vnic.nic.rtl8139.unit import UnitHost
from vnic.record import U32, Record, require

# TSD, §6.3
_HOST_OWNS: Final = 0x2000
_TX_OK: Final = 0x8000
_ABORTED: Final = 0x40000000
_SIZE: Final = 0x1FFF
_WRITABLE: Final = 0x003F3FFF  # size, OWN, early threshold
_DESCRIPTORS: Final = 4

# TCR, §6.14
_TCR_WRITABLE: Final = 0x030F07F0
_TCR_VERSION: Final = 0x74800000  # RTL8139C+
_LOOPBACK: Final = 0x00060000

# A descriptor of C+ mode, §6.30
_LENGTH: Final = 0xFFFF
_LARGE_SEND: Final = 1 << 27
_MSS_SHIFT: Final = 16
_MSS_MASK: Final = 0x7FF
_IP_CHECKSUM: Final = 1 << 18
_UDP_CHECKSUM: Final = 1 << 17
_TCP_CHECKSUM: Final = 1 << 16
_TAG: Final = 1 << 17
_ERRORS: Final = 0x02F00000  # underrun, error summary, window, link failure, collisions: cleared when done
_MIN_BYTES: Final = 60
_ETH_BYTES: Final = 14
_TAG_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 65535 + _ETH_BYTES
"""The longest packet of IPv4 in a frame; a longer frame is not sent."""
_FRAMES_PER_TURN: Final = 32
_SEGMENTS_PER_FRAME: Final = 16
"""So that other NICs get their turn: a frame to be segmented counts as many as it has so many segments."""


class TransmitterRecord(Record, frozen=True):
    config: U32
    status: Annotated[list[U32], msgspec.Meta(min_length=_DESCRIPTORS, max_length=_DESCRIPTORS)]
    """TSD."""
    addresses: Annotated[list[U32], msgspec.Meta(min_length=_DESCRIPTORS, max_length=_DESCRIPTORS)]
    next: Annotated[int, msgspec.Meta(ge=0, lt=_DESCRIPTORS)]
    ring: OwnedRingRecord
    paused: bool
    """Frames wait at the peer. If they are lost, call `Transmitter.resume` after `restore`."""

    def check_fields(self) -> None:
        require(self.config & ~_TCR_WRITABLE == _TCR_VERSION, "config", f"is {self.config:#x}")


class TransmitHost(UnitHost, Protocol):
    """The device, as the transmit unit sees it."""

    @property
    def scheduler(self) -> Scheduler: ...

    def transmit(self, frame: bytes, header: bytes, /) -> bool:
        """Put a frame on the wire. False: it waits at the peer, and `Transmitter.resume` will be called."""


class Transmitter:
    """TCR, TSD and TSAD; in C+ mode TSAD is the address of the ring (TNPDS)."""

    def __init__(self, device: TransmitHost) -> None:
        self._device = device
        self._timer: Timer | None = None
        self.ring = OwnedRing(device, lambda: self.addresses[0] | self.addresses[1] << 32)
        self.reset()

    def reset(self) -> None:
        self.close()
        self.config = _TCR_VERSION
        self.status = [_HOST_OWNS] * _DESCRIPTORS
        self.addresses = [0] * _DESCRIPTORS
        self._next = 0
        self._paused = False
        self._fetched: set[int] = set()
        self.ring.reset()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- Registers ---

    def write_config(self, value: int) -> None:
        """TCR, which can be written while the transmitter is on."""
        if self._device.command & r.CR_TE:
            self.config = _TCR_VERSION | value & _TCR_WRITABLE

    @property
    def loopback(self) -> bool:
        return self.config & _LOOPBACK == _LOOPBACK

    def write_status(self, number: int, value: int) -> None:
        """TSD of C mode: the guest gives the chip a frame."""
        self.status[number] = value & _WRITABLE
        self.kick()

    def write_address(self, number: int, value: int) -> None:
        self.addresses[number] = value

    def summary(self) -> int:
        """TSAD (§6.22): OWN, TABT, TUN and TOK of all four."""
        found = 0
        for number, status in enumerate(self.status):
            for bit, shift in ((_HOST_OWNS, 0), (_ABORTED, 4), (_TX_OK, 12)):
                found |= bool(status & bit) << shift + number
        return found

    def enable(self) -> None:
        """CR.TE was written."""
        self.ring.reset()

    # --- Working ---

    def kick(self) -> None:
        """There may be frames to send."""
        if self._device.rings.unshared:
            self._device.rings.fetch("TX")
        else:
            self.later()

    def later(self) -> None:
        if self._timer is None:
            self._timer = self._device.scheduler.call_soon(self._work)

    def resume(self) -> None:
        """The peer took the waiting frames."""
        if self._paused:
            self._paused = False
            self.later()

    def _work(self) -> None:
        self._timer = None
        device = self._device
        if self._paused or not device.command & r.CR_TE or not device.bus_master:
            return
        try:
            if device.plus_command & r.CPCR_TX:
                self._work_plus()
            else:
                self._work_registers()
        except GuestMemoryError as error:
            device.bus_error("TX", error)  # the ring is not mapped: stop until the guest polls again

    def _work_registers(self) -> None:
        for _ in range(_DESCRIPTORS):
            number = self._next
            if self._paused or self.status[number] & _HOST_OWNS:
                return
            if self._device.rings.unshared and number not in self._fetched:
                self._device.rings.fetch("TX")
                return
            self._fetched.discard(number)
            self._send_register(number)

    def _send_register(self, number: int) -> None:
        device = self._device
        frame, done, cause = b"", _TX_OK, r.TX_OK
        try:
            frame = device.dma.read(self.addresses[number], self.status[number] & _SIZE)
        except GuestMemoryError as error:
            device.bus_error("TX", error)
            done, cause = _ABORTED, r.TX_ERROR
        self.status[number] |= _HOST_OWNS | done
        self._next = (number + 1) % _DESCRIPTORS
        device.interrupts.post(cause)
        device.keep_record()  # killed from here on, the frame is sent by no other process
        if len(frame) >= _ETH_BYTES:
            self._transmit(frame, b"")
        device.interrupts.drive()

    def _work_plus(self) -> None:
        left, sent = _FRAMES_PER_TURN, False
        while left > 0 and not self._paused:
            descriptors = self._next_frame()
            if not descriptors:
                break
            sent = True
            left -= 1 + self._send_descriptors(descriptors)
        if not sent:
            return
        self._device.touched()
        self._device.interrupt(r.TX_OK)
        if left <= 0 or self._device.rings.unshared:
            self.kick()  # for what is left, or not here yet

    def _next_frame(self) -> list[Descriptor]:
        """The descriptors of the next frame; none if the guest has not given all of them. Raises GuestMemoryError."""
        found: list[Descriptor] = []
        while (descriptor := self.ring.owned(len(found), found[-1] if found else None)) is not None:
            if len(found) == COUNT:
                return found  # the whole ring is one frame without an end
            found.append(descriptor)
            if descriptor.status & LAST:
                return found
        return []

    def _send_descriptors(self, descriptors: list[Descriptor]) -> int:
        """Send one frame; returns the work that it was beyond one frame's."""
        device, last = self._device, descriptors[-1]
        frame = self._collect(descriptors)
        header = b""
        tag = _TAG_BYTES if last.vlan & _TAG else 0
        if frame is not None:
            try:
                frame, header = offloaded(frame, _asked(last.status), tag)
            except OffloadError as error:
                device.complain("TX offload", str(error))
                frame = None
        device.tally.add(*((t.TX_OK,) if frame is not None else (t.TX_ERROR, t.TX_ABORTED)))
        if not device.rings.unshared:
            device.interrupts.post(r.TX_OK)  # saved together with it
        self.ring.take([(each, each.status & ~(OWN | _ERRORS), each.vlan) for each in descriptors])
        if frame is not None:
            self._transmit(_tagged(frame, last.vlan & 0xFFFF) if tag else frame, header)
        self.ring.show()
        return len(frame or b"") // (1514 * _SEGMENTS_PER_FRAME) if header else 0

    def _collect(self, descriptors: list[Descriptor]) -> bytes | None:
        """The frame; None: it cannot be read, or is too short or too long."""
        parts: list[bytes] = []
        try:
            for each in descriptors:
                if each.status & FIRST:
                    parts.clear()
                parts.append(self._device.dma.read(each.address, each.status & _LENGTH))
        except GuestMemoryError as error:
            self._device.bus_error("TX", error)
            return None
        frame = b"".join(parts)
        return (
            frame if descriptors[-1].status & LAST and _ETH_BYTES <= len(frame) <= MAX_FRAME_BYTES else None
        )

    def _transmit(self, frame: bytes, header: bytes) -> None:
        if not self._device.transmit(frame if header else frame.ljust(_MIN_BYTES, b"\0"), header):
            self._paused = True

    # --- A VM that does not share its memory; a restart ---

    def forget(self) -> None:
        self._fetched.clear()
        self.ring.forget()

    def plan(self, memory: GuestMemory) -> Plan:
        if self._device.plus_command & r.CPCR_TX:
            yield from self.ring.plan(memory, _buffer_of)
            return
        wanted: dict[int, Range] = {}
        for step in range(_DESCRIPTORS):
            number = (self._next + step) % _DESCRIPTORS
            if self.status[number] & _HOST_OWNS:
                break
            wanted[number] = self.addresses[number], self.status[number] & _SIZE
        yield from copy(memory, [each for each in wanted.values() if each[1]])
        self._fetched = set(wanted)

    def show_again(self) -> None:
        """After a restart."""
        try:
            if self.ring.show_again():
                self._device.interrupt(r.TX_OK)
        except GuestMemoryError as error:
            self._device.bus_error("TX", error)

    # --- State ---

    def save(self) -> TransmitterRecord:
        return TransmitterRecord(
            config=self.config,
            status=list(self.status),
            addresses=list(self.addresses),
            next=self._next,
            ring=self.ring.save(),
            paused=self._paused,
        )

    def restore(self, record: TransmitterRecord) -> None:
        """`show_again` and `kick` follow."""
        self.config, self._next, self._paused = record.config, record.next, record.paused
        self.status, self.addresses = list(record.status), list(record.addresses)
        self.ring.restore(record.ring)


def _buffer_of(descriptor: Descriptor) -> Range:
    return descriptor.address, descriptor.status & _LENGTH


def _asked(status: int) -> Asked:
    """What the last descriptor of a frame asks for."""
    if status & _LARGE_SEND:
        return Asked(mss=status >> _MSS_SHIFT & _MSS_MASK)
    return Asked(bool(status & _IP_CHECKSUM), bool(status & _TCP_CHECKSUM), bool(status & _UDP_CHECKSUM))


def _tagged(frame: bytes, tag: int) -> bytes:
    """The frame with a VLAN tag, which the descriptor has in the order of the wire."""
    return b"".join((frame[:12], b"\x81\x00", tag.to_bytes(2, "little"), frame[12:]))

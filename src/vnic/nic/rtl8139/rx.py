"""The receive unit: the address filter, the ring buffer of C mode and the descriptor ring of C+ mode.

The device passes frames to it. In C mode a frame goes, with a header of four bytes, into one buffer that wraps
(datasheet §5.2); in C+ mode into the buffer of the next descriptor (§6.31).
"""

from __future__ import annotations

import struct
import zlib
from functools import partial
from typing import Annotated, Final

import msgspec

from vnic.memory.guest import GuestMemoryError
from vnic.net.queue import Frame
from vnic.nic.multicast import multicast_index
from vnic.nic.owned_ring import EOR, FIRST, LAST, OwnedRing, OwnedRingRecord
from vnic.nic.rtl8139 import registers as r
from vnic.nic.rtl8139 import tally as t
from vnic.nic.rtl8139.unit import UnitHost
from vnic.record import U32, U64, Record, require

# RCR, §6.15
_ACCEPT_ALL: Final = 0x01
_ACCEPT_MINE: Final = 0x02
_ACCEPT_MULTICAST: Final = 0x04
_ACCEPT_BROADCAST: Final = 0x08
_WRAP: Final = 0x80
"""A frame goes on behind the end of the buffer, where the driver has room."""
_LENGTH_SHIFT: Final = 11
_WRITABLE: Final = 0x0F03FFBF

# The header of a frame in the buffer of C mode, §5.2
_HEADER: Final = struct.Struct("<HH")  # status, length with the CRC
_PACKET_OK: Final = 0x0001
_BROADCAST: Final = 0x2000
_PHYSICAL: Final = 0x4000
_MULTICAST: Final = 0x8000
_TO_DESCRIPTOR: Final = 11
"""From a kind of address in that header to its place in a descriptor's status."""

_TAG_AVAILABLE: Final = 1 << 16
_BUFFER_MASK: Final = 0x1FFF
_MIN_BYTES: Final = 60
_CRC_BYTES: Final = 4
_CAPR_LAG: Final = 0x10
"""CAPR is that much less than the place up to which the driver has read."""
_TALLIES: Final = {
    _BROADCAST: t.RX_OK_BROADCAST,
    _MULTICAST: t.RX_OK_MULTICAST,
    _PHYSICAL: t.RX_OK_PHYSICAL,
}
_EVERYONE: Final = b"\xff" * 6
_MISSED_MASK: Final = 0xFFFFFF


class ReceiverRecord(Record, frozen=True):
    config: U32
    start: U32
    """RBSTART."""
    read_at: Annotated[int, msgspec.Meta(ge=0, lt=65536)]
    write_at: Annotated[int, msgspec.Meta(ge=0, lt=65536)]
    missed: Annotated[int, msgspec.Meta(ge=0, le=_MISSED_MASK)]
    ring_base: U64
    """RDSAR."""
    ring: OwnedRingRecord
    waits: bool

    def check_fields(self) -> None:
        require(not self.config & ~_WRITABLE, "config", f"is {self.config:#x}")
        size = buffer_bytes(self.config)
        require(self.read_at < size and self.write_at < size, "read_at", "or write_at is behind the buffer")
        require(not self.write_at & 3, "write_at", "is no multiple of four")


def buffer_bytes(config: int) -> int:
    """The size of the buffer of C mode."""
    return 8192 << (config >> _LENGTH_SHIFT & 3)


class Receiver:
    """RCR, RBSTART, CAPR, CBR, MPC and RDSAR."""

    def __init__(self, device: UnitHost) -> None:
        self._device = device
        self.ring = OwnedRing(device, lambda: self.ring_base)
        self.reset()

    def reset(self) -> None:
        self.config = self.start = self.missed = self.ring_base = 0
        self._read_at = self._write_at = self._shown_at = 0
        self.ring.reset()
        self.waits = False
        """A frame waits for room, which the driver may have made at any time."""
        self._answered = False

    # --- Registers ---

    @property
    def empty(self) -> bool:
        """CR.BUFE."""
        return self._read_at == self._shown_at

    @property
    def read_pointer(self) -> int:
        return self._read_at - _CAPR_LAG & 0xFFFF

    @property
    def write_pointer(self) -> int:
        """CBR: behind the last frame that is completely written."""
        return self._shown_at

    def write_config(self, value: int) -> None:
        """A buffer of another size begins anew, also one whose receiver is off."""
        before, self.config = self.config, value & _WRITABLE
        if buffer_bytes(before) != buffer_bytes(self.config) or not self._device.command & r.CR_RE:
            self._read_at = self._write_at = self._shown_at = 0

    def write_read_pointer(self, value: int) -> None:
        self._read_at = (value + _CAPR_LAG) % buffer_bytes(self.config)

    def enable(self) -> None:
        """CR.RE was written."""
        self.ring.reset()

    def missed_one(self) -> None:
        """A frame was dropped for lack of room."""
        self.missed = self.missed + 1 & _MISSED_MASK
        self._device.tally.add(t.RX_ERROR, t.MISSED)
        self._device.touched()

    # --- Frames ---

    def receive(self, frame: Frame) -> bool:
        """Take one frame from the wire. False: no room now; offer it again when the driver has written a register."""
        self.waits = False
        device = self._device
        if not device.command & r.CR_RE or not device.bus_master:
            return True
        kind = self._accepted(bytes(frame[:6]))
        if kind is None:
            return True
        data = bytes(frame).ljust(_MIN_BYTES, b"\0")
        try:
            if device.plus_command & r.CPCR_RX:
                self.waits = not self._store_plus(data, kind)
            else:
                self.waits = not self._store(data, kind)
        except GuestMemoryError as error:
            device.bus_error("RX", error)
            self.missed_one()
        return not self.waits

    def _accepted(self, destination: bytes) -> int | None:
        """The kind of address; None: the filter does not let it through."""
        device, config = self._device, self.config
        values = device.registers
        if destination == _EVERYONE:
            kind, passes = _BROADCAST, config & _ACCEPT_BROADCAST
        elif destination[0] & 1:
            at = multicast_index(destination)
            listed = values.values[r.MAR + (at >> 3)] >> (at & 7) & 1
            kind, passes = _MULTICAST, config & _ACCEPT_MULTICAST and listed
        else:
            mine = destination == values.bytes_at(r.IDR, 6)
            kind, passes = (_PHYSICAL if mine else 0), config & _ACCEPT_MINE and mine
        return kind if passes or config & _ACCEPT_ALL else None

    def _received(self, kind: int) -> None:
        self._device.tally.add(t.RX_OK, *([_TALLIES[kind]] if kind else []))

    def _store(self, data: bytes, kind: int) -> bool:
        """Into the buffer of C mode."""
        device, size = self._device, buffer_bytes(self.config)
        packet = b"".join(
            (
                _HEADER.pack(_PACKET_OK | kind, len(data) + _CRC_BYTES & 0xFFFF),
                data,
                zlib.crc32(data).to_bytes(_CRC_BYTES, "little"),
            )
        )
        room = (self._read_at - self._write_at - 1) % size  # in front of what the driver has not read
        taken = len(packet) + 3 & ~3
        if taken >= size:
            self.missed_one()  # it never fits
            device.interrupts.set(r.RX_OVERFLOW)
            return True
        if taken > room:
            device.interrupts.set(r.RX_OVERFLOW)
            device.touched()
            return False
        whole = bool(self.config & _WRAP) and size < 65536
        before_end = len(packet) if whole else size - self._write_at
        device.dma.write(self.start + self._write_at, packet[:before_end])
        if packet[before_end:]:
            device.dma.write(self.start, packet[before_end:])
        self._write_at = (self._write_at + taken) % size
        self._received(kind)
        device.touched()
        device.rings.after_writes(partial(self._show, self._write_at), r.RX_OK)
        return True

    def _store_plus(self, data: bytes, kind: int) -> bool:
        """Into the buffer of the next descriptor."""
        device = self._device
        if not self.ring_base:
            return True  # Linux enables the receiver before it has a ring
        descriptor = self.ring.owned()
        if descriptor is None:
            if device.rings.unshared and not self._answered:
                device.rings.fetch("RX")
            else:
                device.interrupts.set(r.RX_OVERFLOW)
                device.touched()
            return False
        crc = zlib.crc32(data).to_bytes(_CRC_BYTES, "little")
        vlan = 0
        if device.plus_command & r.CPCR_RX_VLAN and data[12:14] == b"\x81\x00":
            vlan = _TAG_AVAILABLE | int.from_bytes(data[14:16], "little")
            data = b"".join((data[:12], data[16:])).ljust(_MIN_BYTES, b"\0")
        length = len(data) + _CRC_BYTES
        if length > descriptor.status & _BUFFER_MASK:
            self.missed_one()
            device.interrupts.set(r.RX_OVERFLOW)
            return True
        device.dma.write(descriptor.address, data + crc)
        status = descriptor.status & EOR | FIRST | LAST | kind << _TO_DESCRIPTOR | length
        self._received(kind)
        if not device.rings.unshared:
            device.interrupts.post(r.RX_OK)  # saved together with it
        self.ring.take([(descriptor, status, vlan)])
        self.ring.show()
        device.interrupt(r.RX_OK)
        return True

    def _show(self, write_at: int, causes: int) -> None:
        self._shown_at = write_at
        self._device.interrupts.set(causes)

    # --- A VM that does not share its memory; a restart ---

    def fetched(self) -> None:
        """What the ring holds is here."""
        self._answered = True
        self._device.flush()
        self._answered = False

    def show_again(self) -> None:
        """After a restart."""
        try:
            if self.ring.show_again():
                self._device.interrupt(r.RX_OK)
        except GuestMemoryError as error:
            self._device.bus_error("RX", error)

    # --- State ---

    def save(self) -> ReceiverRecord:
        return ReceiverRecord(
            config=self.config,
            start=self.start,
            read_at=self._read_at,
            write_at=self._write_at,
            missed=self.missed,
            ring_base=self.ring_base,
            ring=self.ring.save(),
            waits=self.waits,
        )

    def restore(self, record: ReceiverRecord) -> None:
        """`show_again` follows."""
        self.config, self.start, self.missed = record.config, record.start, record.missed
        self._read_at, self._write_at = record.read_at, record.write_at
        self._shown_at = record.write_at
        self.ring_base, self.waits = record.ring_base, record.waits
        self.ring.restore(record.ring)

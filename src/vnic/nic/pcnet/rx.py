"""The receive unit: the address filter, and frames put into the guest's buffers (data sheet, "Receive Operation").

The chip polls its ring: a guest gives a descriptor back by a write to its own memory, of which nothing tells. Frames
wait meanwhile as in the chip's FIFO, and are missed (CSR0.MISS) only when there is no room to wait.
"""

from __future__ import annotations

import zlib
from typing import Final

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import Plan, copy
from vnic.nic.pcnet import descriptors as d
from vnic.nic.pcnet import registers as r
from vnic.nic.pcnet.unit import FETCH, UnitHost

_MIN_BYTES: Final = 60
_FCS_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 4095 - _FCS_BYTES
"""MCNT has 12 bits."""
_BROADCAST: Final = b"\xff" * 6
_UNSHOWN: Final = (d.OWN | d.STP) >> 8
"""The flags of a frame's first descriptor once its buffer is filled. No driver looks at them before OWN is clear, and
the process that takes our place can tell such a descriptor from one that the guest has given again."""


class Receiver:
    """The receive ring."""

    def __init__(self, device: UnitHost) -> None:
        self._device = device
        self._registers = device.registers
        self.ring = d.Ring(device.registers, r.BADR, r.RCVRL, r.RCVRC, r.RX_SHOWN)
        self.reset()

    def reset(self) -> None:
        """The ring is another one."""
        self.waits = False
        """A frame waits for descriptors."""
        self.known = 0
        """Of a VM that does not share its memory: how many of the next descriptors were fetched."""

    @property
    def enabled(self) -> bool:
        return bool(self._registers.cells[0] & r.RXON) and self._device.bus_master

    def receive(self, frame: bytes | bytearray | memoryview, *, looped: bool = False) -> bool:
        """Take one frame. False: there is no descriptor for it now; offer it again at `poll`."""
        registers = self._registers
        mode = registers.cells[r.MODE]
        if not self.enabled or bool(mode & r.LOOP) is not looped:
            return True
        if registers.cells[r.EXTENDED] & r.SPND:
            self.waits = True
            return looped
        self.waits = False
        match = self._match(bytes(frame[:6]), mode)
        if match is None or len(frame) > MAX_FRAME_BYTES or not self.ring.usable:
            return True
        try:
            found = self._find(max(len(frame), _MIN_BYTES) + _FCS_BYTES)
            if found is None:
                self.waits = True
                self._device.poll_later()
                return looped
            if not found:
                self.missed()
            else:
                data = bytes(frame).ljust(_MIN_BYTES, b"\0")
                self._store(data + zlib.crc32(data).to_bytes(_FCS_BYTES, "little"), found, match)
        except GuestMemoryError as error:
            self._device.bus_error("RX", error)
            self.missed()
        return True

    def missed(self) -> None:
        """A frame was dropped for lack of room."""
        cells = self._registers.cells
        cells[r.MISSC] = (cells[r.MISSC] + 1) & 0xFFFF
        if not cells[r.MISSC]:
            cells[r.FEATURES] |= r.MFCO
        self._device.interrupt(r.MISS)

    def offer(self) -> None:
        """Look again for descriptors for the frames that wait."""
        if self.ring.usable:
            self._device.fetch("RX", self._plan, self._device.flush)
        else:
            self._device.flush()

    def _plan(self, memory: GuestMemory) -> Plan:
        yield from copy(memory, self.ring.ranges(FETCH))
        self.known = min(FETCH, self.ring.count)

    def _match(self, destination: bytes, mode: int) -> int | None:
        """Why the chip takes the frame, as a bit of the status; None: it does not ("Address Matching")."""
        if mode & r.PROM:
            return 0
        cells = self._registers.cells
        own = b"".join(cells[r.PADR + at].to_bytes(2, "little") for at in range(3))
        if destination == own:
            return None if mode & r.DRCVPA else d.PAM
        if destination == _BROADCAST:
            return None if mode & r.DRCVBC else d.BAM
        if destination[:1] and destination[0] & 1:
            hashed = (zlib.crc32(destination) ^ 0xFFFF_FFFF) >> 26
            if cells[r.LADRF + (hashed >> 4)] >> (hashed & 15) & 1:
                return d.LAFM
        return None

    def _find(self, size: int) -> list[d.Descriptor] | None:
        """The descriptors that a frame needs; none if it fits nowhere; None if they are not the chip's yet.

        Raises GuestMemoryError.
        """
        device, ring = self._device, self.ring
        most = min(ring.count, FETCH)
        found: list[d.Descriptor] = []
        for ahead in range(most):
            if device.shadow is not None and ahead >= self.known:
                self.offer()
                return None
            each = ring.read(device.dma, ahead)
            if each.status & d.OWN and not each.sound:
                device.complain(
                    "RX ring", f"a descriptor at {each.where:#x} whose length does not begin with ones"
                )
                return None
            if not each.status & d.OWN:
                self.known = ahead
                return None
            found.append(each)
            size -= each.length
            if size <= 0:
                return found
        return []

    def _store(self, data: bytes, found: list[d.Descriptor], match: int) -> None:
        device, ring = self._device, self.ring
        at = 0
        for each in found:
            device.dma.write(each.address, data[at : at + each.length])
            at += each.length
        dma = device.dma
        dma.write(ring.flags_at(0), bytes((_UNSHOWN,)))
        ring.advance(len(found))
        self.known -= len(found)
        # The guest may poll: the first descriptor, for which it waits, comes last.
        for number in reversed(range(len(found))):
            status, count = 0, 0
            if number == len(found) - 1:
                status, count = d.ENP | match, len(data)
            if number == 0:
                status |= d.STP
            ring.give_back(dma, found[number], status, count, lance_more=count)
        ring.all_shown(device.shadow)
        device.interrupt(r.RINT)

    def take_up(self) -> None:
        """The process before was killed: a frame that the guest does not have is lost, and its descriptors are the
        chip's again."""
        ring, dma = self.ring, self._device.dma
        count = ring.unshown()
        if not count:
            return
        try:
            if self._device.shadow is not None or dma.read(ring.flags_at(-count), 1)[0] == _UNSHOWN:
                for ahead in range(-count, 0):
                    dma.write(ring.flags_at(ahead), bytes((d.OWN >> 8,)))
                ring.advance(-count)
        except GuestMemoryError as error:
            self._device.bus_error("RX", error)
        ring.all_shown(None)

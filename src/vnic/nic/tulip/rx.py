"""The receive process: frames from the wire put into the guest's buffers (Hardware Reference Manual §4.3.4).

A guest gives a descriptor back by a write to its own memory, of which nothing tells: while frames wait, the chip polls.
"""

from __future__ import annotations

import zlib
from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.nic.tulip import descriptors as d
from vnic.nic.tulip import registers as r
from vnic.nic.tulip.filter import SetupFilter
from vnic.nic.tulip.unit import UnitHost

_MIN_BYTES: Final = 60
_FCS_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 2048 - _FCS_BYTES
_UNSHOWN: Final = d.OWN | d.FIRST
"""The status of a frame's first descriptor once it is filled. No driver looks at it before OWN is clear, and the
process that takes our place can tell it from one that the guest has given again."""


class Receiver:
    """The receive list."""

    def __init__(self, device: UnitHost) -> None:
        self._device = device
        self.list = d.DescriptorList(device.csr, 3)
        self.filter = SetupFilter()
        self.owed: list[int] = []
        """The addresses of descriptors that are filled, and that the guest may not have yet."""
        self.waits = False
        """A frame waits for descriptors."""

    @property
    def enabled(self) -> bool:
        return bool(self._device.csr[6] & r.SR) and self._device.bus_master

    def receive(self, frame: bytes | bytearray | memoryview, *, looped: bool = False) -> bool:
        """Take one frame. False: there is no descriptor for it now; offer it again at `offer`."""
        csr = self._device.csr
        self.waits = False
        if not self.enabled or bool(csr[6] & r.OM) is not looped or len(frame) > MAX_FRAME_BYTES:
            return True
        status = self._match(bytes(frame[:6]), csr[6])
        if status is None:
            return True
        data = bytes(frame).ljust(_MIN_BYTES, b"\0")
        data += zlib.crc32(data).to_bytes(_FCS_BYTES, "little")
        try:
            found = self._find(len(data))
            if found:
                self._store(data, found, status)
                return True
        except GuestMemoryError as error:
            self._device.bus_error("RX", error)
            found = []
        if found is not None or looped:
            self.missed()
            return True
        self.waits = True
        self._device.suspend_rx()
        return False

    def missed(self) -> None:
        """A frame was dropped for lack of room: CSR8 counts it."""
        csr = self._device.csr
        csr[8] = csr[8] & 0xFFFF_0000 | (csr[8] + 1 & 0xFFFF or 1 << 16)
        self._device.touched()

    def offer(self) -> None:
        """Look again for descriptors for the frames that wait."""
        self._device.fetch("RX", lambda memory: self.list.plan(memory, lambda _: ()), self._device.flush)

    def _match(self, destination: bytes, mode: int) -> int | None:
        """Bits of RDES0 of a frame that the chip takes; None: it does not take it."""
        multicast = d.MULTICAST * (len(destination) > 0 and destination[0] & 1)
        if len(destination) == 6 and self.filter.accepts(destination):
            return multicast
        if mode & (r.PR | r.RA):
            return d.FILTERED | multicast
        return multicast if multicast and mode & r.PM else None

    def _find(self, size: int) -> list[d.Descriptor] | None:
        """The descriptors that a frame needs; none if it fits nowhere; None if they are not the chip's yet.

        Raises GuestMemoryError.
        """
        device, at = self._device, self.list.at
        found: list[d.Descriptor] = []
        for _ in range(d.MOST_PIECES):
            if device.shadow is not None and at not in self.list.known:
                self.offer()
                return None
            each = self.list.read(device.dma, at)
            if not each.status & d.OWN:
                self.list.known.discard(at)
                return None
            found.append(each)
            size -= each.length
            if size <= 0:
                return found
            at = each.following
        return []

    def _store(self, data: bytes, found: list[d.Descriptor], status: int) -> None:
        device, dma = self._device, self._device.dma
        at = 0
        for each in found:
            for address, length in each.buffers:
                if at < len(data):
                    dma.write(address, data[at : at + length])
                    at += length
        self.list.write_status(dma, found[0].where, _UNSHOWN)
        self.list.at = found[-1].following
        self.list.known.difference_update(each.where for each in found)
        self.owed = [each.where for each in found]
        device.keep_record()
        # The guest may poll: the first descriptor, for which it waits, comes last.
        for number in reversed(range(len(found))):
            value = d.FIRST * (number == 0)
            if number == len(found) - 1:
                value |= d.LAST | status | len(data) << d.LENGTH_SHIFT
            self.list.write_status(dma, found[number].where, value)
        self.owed = []
        device.touched()
        device.interrupt(r.RI)

    def take_up(self) -> None:
        """The process before was killed: a frame that the guest does not have is lost, and its descriptors are the
        chip's again."""
        owed, self.owed = self.owed, []
        dma = self._device.dma
        try:
            if owed and (self._device.shadow or self.list.read(dma, owed[0]).status == _UNSHOWN):
                for where in owed:
                    self.list.write_status(dma, where, d.OWN)
                self.list.at = owed[0]
        except GuestMemoryError as error:
            self._device.bus_error("RX", error)

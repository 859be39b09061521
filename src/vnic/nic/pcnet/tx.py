"""The transmit unit: frames made from the guest's descriptors (data sheet, "Transmit Operation").

The guest demands transmission by CSR0.TDMD, or leaves it to the chip to poll. A frame is sent only when all its
descriptors are the chip's. While the link is down the last of them gets LCAR, and CSR0 CERR.
"""

from __future__ import annotations

from typing import Final

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import Plan, Range, copy
from vnic.nic.pcnet import descriptors as d
from vnic.nic.pcnet import registers as r
from vnic.nic.pcnet.unit import FETCH, UnitHost
from vnic.nic.turns import Turns

_MIN_BYTES: Final = 60
_FCS_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 4096 - _FCS_BYTES
WORK_PER_TURN: Final = 256
"""Limit on the descriptors of one turn of the loop, so that other NICs get theirs."""


class Transmitter:
    """The transmit ring."""

    def __init__(self, device: UnitHost) -> None:
        self._device = device
        self._registers = device.registers
        self.ring = d.Ring(device.registers, r.BADX, r.XMTRL, r.XMTRC, r.TX_SHOWN)
        self.turns = Turns(lambda: device.scheduler, self._begin)
        self.reset()

    def reset(self) -> None:
        """The ring is another one."""
        self.turns.cancel()
        self._running = False
        self.known = 0
        """Of a VM that does not share its memory: how many of the next descriptors were fetched, with their buffers."""

    @property
    def enabled(self) -> bool:
        cells = self._registers.cells
        return bool(cells[0] & r.TXON) and not cells[r.EXTENDED] & r.SPND

    def demand(self) -> None:
        """Work on what the guest has given, for one turn at the most."""
        if not self.enabled or not self.ring.usable:
            self._registers.cells[0] &= ~r.TDMD
        else:
            self.turns.now()

    def _begin(self) -> None:
        self._device.fetch("TX", self._plan, self._work)

    def _plan(self, memory: GuestMemory) -> Plan:
        ring = self.ring
        yield from copy(memory, ring.ranges(FETCH))
        known = 0
        wanted: list[Range] = []
        for known in range(min(FETCH, ring.count)):
            each = ring.read(memory, known)
            if not each.status & d.OWN:
                break
            wanted.append((each.address, each.length))
        yield from copy(memory, wanted)
        self.known = known + 1

    def _work(self) -> None:
        device, ring = self._device, self.ring
        if self._running or not self.enabled or not ring.usable or not device.bus_master:
            return
        causes = 0
        budget = WORK_PER_TURN
        self._running = True
        try:
            while budget > 0 and not self.turns.paused and self.enabled:
                frame = self._next()
                if frame is None:
                    self._registers.cells[0] &= ~r.TDMD
                    break
                budget -= len(frame[0])
                causes |= self._send(*frame)
        except GuestMemoryError as error:
            device.bus_error("TX", error)
        finally:
            self._running = False
        if budget <= 0 and not self.turns.paused:
            self.turns.later()
        if causes:
            device.interrupt(causes)

    def _next(self) -> tuple[list[d.Descriptor], int] | None:
        """The descriptors of the frame that is next, or one that belongs to none, and an error as bits of TMD2. None:
        the guest has given none, or it is still to be fetched. Raises GuestMemoryError."""
        device, ring = self._device, self.ring
        parts: list[d.Descriptor] = []
        for ahead in range(min(ring.count, FETCH)):
            if device.shadow is not None and ahead >= self.known:
                self.turns.later()
                return None
            each = ring.read(device.dma, ahead)
            if each.status & d.OWN and not each.sound:
                device.complain(
                    "TX ring", f"a descriptor at {each.where:#x} whose length does not begin with ones"
                )
                return None
            if not each.status & d.OWN:
                # It began, and does not end: an underflow, which turns the transmitter off.
                return (parts, d.TX_BUFF | d.UFLO) if parts else None
            parts.append(each)
            if each.status & d.ENP or not parts[0].status & d.STP:
                return parts, 0
        return parts, d.TX_BUFF | d.UFLO

    def _send(self, parts: list[d.Descriptor], error: int) -> int:
        """Send a frame and give its descriptors back; returns bits of CSR0. Raises GuestMemoryError."""
        device, ring, cells = self._device, self.ring, self._registers.cells
        last = parts[-1]
        failed = bool(error)
        causes = 0
        data = b""
        if error & d.UFLO and not cells[r.MASKS] & r.DXSUFLO:
            cells[0] &= ~r.TXON
        elif not error and parts[0].status & d.STP:
            if device.link.lost(cells[r.MODE], cells[r.BCR + r.MC]):
                error, causes = d.LCAR, r.CERR
            else:
                data, causes = self._collect(parts)
                failed = not data
            failed = failed or bool(error)
        ring.advance(len(parts))  # killed from here on, the frame is sent by no other process
        self.known -= len(parts)
        if data:
            cells[r.FEATURES] |= r.TXSTRT
            self.turns.paused = not device.transmit(data)
        for each in parts:
            bad = each is last and failed
            more = error if each is last else 0
            status = each.status & ~(d.OWN | d.ERR) | d.ERR * bad
            ring.give_back(device.dma, each, status, more, lance_more=more >> 16)
        ring.all_shown(device.shadow)
        extended = cells[r.EXTENDED]
        wanted = extended & r.LTINTEN and last.status & d.LTINT
        return causes | r.TINT * (failed or not extended & r.TOKINTD or bool(wanted))

    def _collect(self, parts: list[d.Descriptor]) -> tuple[bytes, int]:
        """The frame of these descriptors, empty if it cannot be sent, and bits of CSR0."""
        device, cells = self._device, self._registers.cells
        if sum(each.length for each in parts) > MAX_FRAME_BYTES:
            device.complain("TX length", f"a frame of more than {MAX_FRAME_BYTES} bytes is not sent")
            return b"", r.BABL
        try:
            data = b"".join(device.dma.read(each.address, each.length) for each in parts)
        except GuestMemoryError as error:
            device.bus_error("TX", error)
            return b"", 0
        if cells[r.MODE] & r.DXMTFCS and not parts[0].status & d.ADD_FCS:
            data = data[:-_FCS_BYTES]  # the guest has made its own
        if cells[r.FEATURES] & r.APAD_XMT:
            data = data.ljust(_MIN_BYTES, b"\0")
        return data, 0

    def take_up(self) -> None:
        """The process before was killed: frames that it was done with are the guest's."""
        ring, dma = self.ring, self._device.dma
        try:
            for ahead in range(-ring.unshown(), 0):
                at = ring.flags_at(ahead)
                flags = dma.read(at, 1)[0] if self._device.shadow is None else (d.STP | d.ENP) >> 8
                dma.write(at, bytes((flags & ~(d.OWN >> 8),)))
        except GuestMemoryError as error:
            self._device.bus_error("TX", error)
        if ring.usable:
            ring.all_shown(None)

"""The transmit process: frames made from the guest's descriptors, and setup frames (Hardware Reference Manual §4.3.5).

The guest demands a poll of the list by CSR1. A frame is sent only when all its descriptors are the chip's.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.nic.tulip import descriptors as d
from vnic.nic.tulip import registers as r
from vnic.nic.tulip.filter import HASH, INVERSE, SETUP_BYTES, SetupFilter
from vnic.nic.tulip.unit import UnitHost
from vnic.nic.turns import Turns

_MIN_BYTES: Final = 60
MAX_FRAME_BYTES: Final = 2048
WORK_PER_TURN: Final = 256
"""Limit on the descriptors of one turn of the loop, so that other NICs get theirs."""
_EMPTY: Final = 0x7FFF_FFFF
"""TDES0 of what is done and was no frame."""


class Transmitter:
    """The transmit list."""

    def __init__(self, device: UnitHost, address_filter: SetupFilter) -> None:
        self._device = device
        self._filter = address_filter
        self.list = d.DescriptorList(device.csr, 4)
        self.turns = Turns(lambda: device.scheduler, self._begin)
        self.owed: list[int] = []
        """The addresses of descriptors that are done, and that the guest may not have yet."""
        self._running = False

    @property
    def enabled(self) -> bool:
        return bool(self._device.csr[6] & r.ST) and self._device.bus_master

    def demand(self) -> None:
        """Work on what the guest has given, for one turn at the most."""
        if self.enabled:
            self.turns.now()

    def _begin(self) -> None:
        plan = partial(self.list.plan, buffers=lambda each: each.buffers)
        self._device.fetch("TX", plan, self._work)

    def _work(self) -> None:
        device = self._device
        if self._running or not self.enabled:
            return
        causes, budget = 0, WORK_PER_TURN
        self._running = True
        try:
            while budget > 0 and not self.turns.paused:
                parts = self._next()
                if parts is None:
                    causes |= r.TU
                    break
                if not parts:
                    self.turns.later()
                    break
                budget -= len(parts)
                causes |= self._carry_out(parts)
        except GuestMemoryError as error:
            device.bus_error("TX", error)
        finally:
            self._running = False
        if budget <= 0 and not self.turns.paused:
            self.turns.later()
        if causes:
            device.interrupt(causes)

    def _next(self) -> list[d.Descriptor] | None:
        """The descriptors of what is next: a setup frame, a frame, or one that belongs to none. An empty list: they are
        still to be fetched. None: the guest has given none. Raises GuestMemoryError."""
        device, at = self._device, self.list.at
        parts: list[d.Descriptor] = []
        for _ in range(d.MOST_PIECES):
            if device.shadow is not None and at not in self.list.known:
                return []
            each = self.list.read(device.dma, at)
            if not each.status & d.OWN:
                return None
            parts.append(each)
            if each.control & (d.TX_LAST | d.SETUP) or not parts[0].control & d.TX_FIRST:
                return parts
            at = each.following
        return parts

    def _carry_out(self, parts: list[d.Descriptor]) -> int:
        """Send a frame, or load a setup frame, and give the descriptors back; returns bits of CSR5.

        Raises GuestMemoryError.
        """
        device, dma = self._device, self._device.dma
        first, last = parts[0], parts[-1]
        data, status = b"", _EMPTY
        try:
            if last.control & d.SETUP:
                self._setup(last)
            elif first.control & d.TX_FIRST and last.control & d.TX_LAST:
                status = d.NO_CARRIER * device.link.loses_frames()
                data = self._collect(parts)
        except GuestMemoryError as error:
            device.bus_error("TX", error)
        self.list.at = last.following
        self.list.known.difference_update(each.where for each in parts)
        self.owed = [each.where for each in parts]
        device.keep_record()  # killed from here on, the frame is sent by no other process
        if data:
            self.turns.paused = not device.transmit(data)
        for each in parts:
            self.list.write_status(dma, each.where, status if each is last else 0)
        self.owed = []
        device.touched()
        return r.TI * bool(last.control & d.INTERRUPT)

    def _setup(self, each: d.Descriptor) -> None:
        if each.length != SETUP_BYTES:
            return
        frame = b"".join(self._device.dma.read(*buffer) for buffer in each.buffers)
        kind = HASH * bool(each.control & d.FILTER_LOWER) | INVERSE * bool(each.control & d.FILTER_UPPER)
        self._filter.load(frame, kind)

    def _collect(self, parts: list[d.Descriptor]) -> bytes:
        device = self._device
        if sum(each.length for each in parts) > MAX_FRAME_BYTES:
            device.complain("TX length", f"a frame of more than {MAX_FRAME_BYTES} bytes is not sent")
            return b""
        data = b"".join(device.dma.read(*buffer) for each in parts for buffer in each.buffers)
        return data if parts[0].control & d.NO_PADDING else data.ljust(_MIN_BYTES, b"\0")

    def take_up(self) -> None:
        """The process before was killed: frames that it was done with are the guest's."""
        owed, self.owed = self.owed, []
        dma = self._device.dma
        try:
            for where in owed:
                if self._device.shadow or self.list.read(dma, where).status & d.OWN:
                    self.list.write_status(dma, where, 0)
        except GuestMemoryError as error:
            self._device.bus_error("TX", error)

"""The receive queues: frames from the wire go into the guest's buffers. As QEMU's, only the first queue gets any.

A queue has two rings: heads, with or without bodies between them, and bodies alone. A frame begins in a head and goes
on in bodies, of which the first ring's come first.
"""

from __future__ import annotations

from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.nic.tso import VLAN_TYPE
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.queue import RX_ERROR, Queue

_LOOKED_AT: Final = 64
"""Limit on descriptors that one frame passes over: bodies before a head, and such without a buffer."""
_RETRY_S: Final = 0.001
"""A frame that waits for a buffer is offered so often: a driver that polls does not say that it has posted some."""

Piece = tuple[int, int, int]  # what is in one buffer: the number of its ring, its index there, the length


class RxQueue(Queue):
    def receive(self, frame: bytes) -> bool:
        """Take one frame, which the filter accepts. False: no buffer is free, and the frame is offered again."""
        device, size, tag = self._device, len(frame), None
        if device.filter.record.strip and frame[12:14] == VLAN_TYPE:
            tag = frame[14] << 8 | frame[15]
            frame = frame[:12] + frame[16:]
        self._keep_sometimes()
        before = [ring.place for ring in self.rings]
        pieces: list[Piece] | None = []
        try:
            pieces = self._place(frame)
            if pieces:
                self.completions.put(device.dma, _completions(pieces, tag, device.rx_queues))
                self.count_frames(frame[:6], size)
        except GuestMemoryError as error:
            device.bus_error("RX", error)
            pieces = []
        if not pieces:
            for ring, place in zip(self.rings, before, strict=True):
                ring.place = place
            if pieces is None:
                self._later()
                return False
            self.count(RX_ERROR)
        device.touched()
        device.interrupts.trigger(self.interrupt)
        return True

    def _later(self) -> None:
        if self._timer is None:
            self._timer = self._device.scheduler.call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self._device.client.flush(0)

    def _place(self, frame: bytes) -> list[Piece] | None:
        """Write the frame into buffers. None: there are not enough; []: it may not have as many. Raises
        GuestMemoryError."""
        pieces: list[Piece] = []
        at = 0
        while at < len(frame):
            found = self._next(body=bool(pieces) and self._device.compound)
            if found is None:
                return None
            if len(pieces) == self._device.fragments:
                return []
            number, index, address, length = found
            piece = frame[at : at + length]
            self._device.dma.write(address, piece)
            pieces.append((number, index, len(piece)))
            at += len(piece)
        return pieces

    def _next(self, *, body: bool) -> tuple[int, int, int, int] | None:
        """The next head or body: its ring, index, address and length. Bodies that are passed in search of a head are
        skipped, which drivers expect. Raises GuestMemoryError."""
        for number, ring in enumerate(self.rings if body else self.rings[:1]):
            for (address, first, _), generation in ring.read(self._device.dma, _LOOKED_AT):
                if first >> r.RX_GEN_SHIFT != generation or (body and not first & r.RX_BODY):
                    break
                index = ring.pass_by(ring.next)
                length = first & r.LENGTH_MASK
                if length and bool(first & r.RX_BODY) == body:
                    return number, index, address, length
        return None


def _completions(pieces: list[Piece], tag: int | None, queues: int) -> list[list[int]]:
    """`queues`: how many the driver has set up; the numbers of the second rings follow those of the first ones."""
    last = r.RCD_TYPE | r.RCD_FCS
    words = [[index | ring * queues << r.RCD_QUEUE_SHIFT, 0, length, last] for ring, index, length in pieces]
    words[0][0] |= r.RCD_SOP
    words[-1][0] |= r.RCD_EOP | r.RCD_CNC
    words[-1][2] |= 0 if tag is None else r.RCD_TS | tag << r.RCD_TCI_SHIFT
    return words

"""A transmit queue: makes frames from the guest's descriptors, and completes them.

The device kicks it when the driver writes TXPROD. A frame is copied and completed before it is sent, so that a process
that takes the place of this one sends no frame twice.
"""

from __future__ import annotations

from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.net.offload import MAX_FRAME_BYTES, OffloadError
from vnic.nic.tso import ETH_BYTES, TAG_BYTES, Outgoing, segmented, with_checksum, with_tag
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.queue import TX_ERROR, Queue
from vnic.nic.vmxnet3.rings import Descriptor

MAX_DESCRIPTORS: Final = 64
"""Of one packet; Linux uses up to 24. More that belong together are passed by."""
WORK_PER_TURN: Final = 256
"""Limit on the work of one turn of the loop, so that other NICs get theirs. A descriptor counts 1, each 2 KiB of its
buffer 1, each segment 1."""


class TxQueue(Queue):
    """All queues send through queue 0 of the NIC's client."""

    def kick(self) -> None:
        """The driver wrote TXPROD: work now, for one turn at the most."""
        if self._timer is None:
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
        device = self._device
        budget, done = WORK_PER_TURN, False
        try:
            while budget > 0 and not self._paused and (packet := self._next_packet()):
                self._keep_sometimes()
                budget -= self._carry_out(packet)
                done = True
        except GuestMemoryError as error:
            # A ring is not mapped: stop until the driver writes TXPROD again.
            device.bus_error("TX", error)
            budget = WORK_PER_TURN
        if budget <= 0 and not self._paused:
            self._later()
        if done:
            device.touched()
            device.interrupts.trigger(self.interrupt)

    def _next_packet(self) -> list[Descriptor]:
        """The descriptors of the next packet, none if it is not complete. Raises GuestMemoryError."""
        dma, ring, count = self._device.dma, self.rings[0], 0
        for (_, first, second), generation in ring.read(dma, MAX_DESCRIPTORS):
            if first >> r.TX_GEN_SHIFT & 1 != generation:
                return []
            count += 1
            if second & r.TX_EOP:
                break
        # Once more: the generation is the driver's last write, and what was read with it may be older.
        return [each for each, _ in ring.read(dma, count)]

    def _carry_out(self, packet: list[Descriptor]) -> int:
        """Complete and send one packet; returns the work it was. Raises GuestMemoryError for the rings."""
        device, ring = self._device, self.rings[0]
        index = [ring.pass_by(ring.next) for _ in packet][-1]
        frame = self._collect(packet)
        if packet[-1][2] & r.TX_EOP:
            self.completions.put(device.dma, [[index, 0, 0, 0]])
        work = len(packet) + len(frame) // 2048
        try:
            frame, header, segments, size = _offloaded(frame, *packet[0][1:])
        except OffloadError as error:
            if frame:  # else the reason is logged
                device.complain("TX", str(error))
            self.count(TX_ERROR)
            return work
        self.count_frames(frame[:6], size or len(frame), segments)
        if device.link.up and not device.client.send(0, frame, header):
            self._paused = True
        return work + segments - 1

    def _collect(self, packet: list[Descriptor]) -> bytes:
        """The packet's bytes; b"" if they cannot be read, are too many, or have no end."""
        lengths = [first & r.LENGTH_MASK or r.MAX_TX_BUFFER for _, first, _ in packet]
        if sum(lengths) > MAX_FRAME_BYTES or not packet[-1][2] & r.TX_EOP:
            self._device.complain("TX", f"a packet of {sum(lengths)} bytes or more is not sent")
            return b""
        try:
            return b"".join(
                self._device.dma.read(address, length)
                for (address, _, _), length in zip(packet, lengths, strict=True)
            )
        except GuestMemoryError as error:
            self._device.bus_error("TX", error)
            return b""


def _offloaded(frame: bytes, first: int, second: int) -> Outgoing:
    """What the words of the first descriptor make of it. Raises OffloadError."""
    if len(frame) < ETH_BYTES:
        raise OffloadError(f"a packet of {len(frame)} bytes")
    shift = TAG_BYTES if second & r.TX_TI else 0
    if shift:
        frame = with_tag(frame, second >> r.TX_TCI_SHIFT)
    mode, value = second >> r.TX_OM_SHIFT & 3, first >> r.TX_MSSCOF_SHIFT
    if mode == r.OM_TSO:
        return segmented(frame, value)
    if mode == r.OM_CSUM:
        return with_checksum(frame, (second & r.TX_HLEN_MASK) + shift, value + shift)
    if mode != r.OM_NONE:
        raise OffloadError(f"offload mode {mode}")
    return Outgoing(frame)

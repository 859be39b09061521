"""The rings of a virtio PCI function in a VM that does not share its memory: a kick waits until the memory to read is
fetched, an interrupt until the device's writes are complete.

`transport.VirtioPci` has one while such a VM is attached, and passes its kicks and queue interrupts through it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import Plan, Shadow
from vnic.virtio.device import VirtioDevice
from vnic.virtio.queue import QueueError
from vnic.virtio.shadow_ring import ShadowRing


class ShadowRings:
    """All rings of one device; `interrupt(index)` sends a queue's interrupt."""

    def __init__(
        self, device: VirtioDevice, memory: GuestMemory, shadow: Shadow, interrupt: Callable[[int], None]
    ) -> None:
        self._device = device
        self._shadow = shadow
        self._interrupt = interrupt
        self._rings = [ShadowRing(queue, memory) for queue in device.queues]

    def enable(self, index: int) -> None:
        """The driver is starting a ring, which is empty then."""
        self._rings[index].restart()

    def kick(self, index: int, *, anew: bool = False) -> None:
        """The driver's kick: the device processes the ring after the fetch."""
        if self._device.queues[index].ready:
            self._shadow.fetch(
                index,
                self._rings[index].fetch,
                partial(self._device.kick, index),
                partial(self._failed, index),
                anew=anew,
            )

    def kick_all(self) -> None:
        for index in range(len(self._rings)):
            self.kick(index)

    def interrupt(self, index: int) -> None:
        """The device's interrupt: it is sent when the writes before it are complete."""
        ring = self._rings[index]
        self._shadow.write(ring.written(), partial(self._interrupt, index), partial(self._failed, index))
        if ring.held_back:
            self.kick(index)

    def save(self) -> None:
        """The shadow copy will be dropped: write the device's changes to the guest."""
        for queue, ring in zip(self._device.queues, self._rings, strict=True):
            if queue.ready and (parts := ring.written()):
                self._shadow.write(
                    parts, partial(self._interrupt, queue.index), partial(self._failed, queue.index)
                )

    def stopped(self, index: int, done: Callable[[], None]) -> None:
        """The device stopped the ring: fetch no more for it. `done` is called when its writes are complete."""
        failed = partial(self._failed, index)
        self._shadow.fetch(index, _no_plan, _nothing, failed, anew=True)
        self._shadow.write((), done, failed)

    def take_up(self) -> None:
        """After a restart in which the process before was killed: its shadow copy and cursors are lost, and the guest's
        memory has them. Its last writes are carried out before what is asked now."""
        for queue, ring in zip(self._device.queues, self._rings, strict=True):
            if queue.ready:
                ring.take_up()
                self.kick(queue.index, anew=True)

    def restart(self) -> None:
        """The shadow copy of some memory is new: fetch the chains again that are not taken yet."""
        self.save()
        for queue, ring in zip(self._device.queues, self._rings, strict=True):
            if queue.ready:
                ring.restart()
                self.kick(queue.index, anew=True)

    def _failed(self, index: int, error: GuestMemoryError) -> None:
        queue = self._device.queues[index]
        if queue.ready:
            self._device.queue_failed(queue, QueueError(str(error)))


def _no_plan() -> Plan:
    yield from ()


def _nothing() -> None:
    pass

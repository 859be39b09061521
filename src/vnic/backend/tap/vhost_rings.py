"""VhostRings: a guest's rings while the kernel's vhost-net has them (QEMU's hw/net/vhost_net.c).

`vhost_tap` makes one for each time that a guest's rings are handed over. The kernel accesses the guest's memory through
mappings of its own here, which are unmapped only when it has stopped, whatever the VM unmaps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from vnic.backend.tap.relay import Notifier
from vnic.backend.tap.vhost_net import MemoryRange, RingPlace, VhostNet
from vnic.backend.vhost_user_session import TakenRings, shared_memory, usable_rings
from vnic.memory.guest import GuestMemoryError, MappedRegion
from vnic.memory.sigbus import address_of
from vnic.threads import thread_beside
from vnic.virtio.attachment import QueueFds
from vnic.virtio.device import VirtioDevice

Returned = Callable[[Sequence[int | None]], None]


class RingsOwner(Protocol):
    """What the rings need of their tap."""

    def refuse(self, reason: str) -> None:
        """The kernel cannot go on with these rings: they have to come back."""

    def queue_used(self, pair: int, used: bool) -> None:
        """Whether the guest takes frames of this queue of the tap."""


class GuestMap:
    """A guest's memory, mapped for the kernel."""

    def __init__(self, device: VirtioDevice) -> None:
        """ValueError if it cannot be mapped."""
        self._regions: list[MappedRegion] = []
        try:
            for each in shared_memory(device.memory):
                self._regions.append(MappedRegion(each.guest_addr, each.size, each.fd, each.offset))
        except GuestMemoryError as error:
            self.close()
            raise ValueError(str(error)) from None
        self.ranges = [
            MemoryRange(region.guest_addr, region.size, address_of(region.mapping) + region.mapping_start)
            for region in self._regions
            if region.mapping is not None
        ]

    def address(self, guest_addr: int) -> int:
        """ValueError if that is nowhere. The kernel checks the length."""
        for each in self.ranges:
            if each.guest_addr <= guest_addr < each.guest_addr + each.size:
                return each.address + guest_addr - each.guest_addr
        raise ValueError(f"a ring is at {guest_addr:#x}, in memory that the VM does not share")

    def keep(self, other: GuestMap) -> None:
        """Unmap that one with this one."""
        self._regions += other._regions

    def close(self) -> None:
        for region in self._regions:
            region.close()
        self._regions.clear()


class VhostRings:
    """From the hand-over until the rings are back."""

    def __init__(
        self,
        owner: RingsOwner,
        loop: asyncio.AbstractEventLoop,
        device: VirtioDevice,
        kernel: Sequence[VhostNet],
        taps: Sequence[int],
        features: int,
        busy_poll_us: int,
    ) -> None:
        """`kernel` and `taps` have one descriptor for each queue pair. `features` are those of the kernel that the
        guest's driver has negotiated. Nothing is handed over before `start`. ValueError or OSError: it cannot be."""
        self.device = device
        self._owner = owner
        self._loop = loop
        self._kernel = kernel
        self._taps = taps
        self._features = features
        self._busy_poll_us = busy_poll_us
        self._taken = TakenRings(device, device.memory, device.memory.generation)
        self._notifiers: dict[int, tuple[QueueFds, Notifier, Notifier]] = {}
        self._running: set[int] = set()
        self._stopping = False
        self._map = GuestMap(device)
        self._error = -1
        """Written by the kernel."""
        try:
            self._error = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:
            self._close()
            raise

    # -- hand-over ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """vhost_net_start. ValueError or OSError, also after some rings run: they have to be asked back."""
        self._loop.add_reader(self._error, self._failed)
        for each in self._kernel:
            each.set_features(self._features)
            each.set_memory(self._map.ranges)
        self._start_rings()

    def _start_rings(self) -> None:
        """Those that the guest has set up since; a pair runs when both are."""
        usable = set(usable_rings(self.device, len(self._kernel)))
        for pair in range(len(self._kernel)):
            rings = {2 * pair, 2 * pair + 1}
            if rings <= usable and not rings <= self._running:
                for index in sorted(rings):
                    self._set_up(index)
                for index in sorted(rings):
                    self._kernel[pair].run(index & 1, self._taps[pair])
                    self._running.add(index)
            self._owner.queue_used(pair, rings <= usable and self.device.is_data_queue(2 * pair))

    def _set_up(self, index: int) -> None:
        queue, kernel = self.device.queues[index], self._kernel[index // 2]
        kernel.set_ring(index & 1, queue.size, queue.last_avail)
        self._place(index)
        self._connect(index)
        if self._busy_poll_us:
            kernel.set_busy_poll(index & 1, self._busy_poll_us)

    def _place(self, index: int) -> None:
        queue, at = self.device.queues[index], self._map.address
        place = RingPlace(at(queue.desc), at(queue.used), at(queue.avail))
        self._kernel[index // 2].set_addresses(index & 1, place)

    def _connect(self, index: int) -> None:
        """Give the ring's eventfds to the kernel, if they are others than before."""
        fds = self.device.attachment.hand_over_queue(index)
        if fds is None or fds.kick is None:
            raise ValueError(f"ring {index} of {self.device.name} cannot be handed over")
        self._taken.handed_over.add(index)
        kick = Notifier(self._loop, fds.kick, kick=True)
        try:
            call = Notifier(self._loop, fds.call, kick=False)
        except ValueError:
            kick.close()
            raise
        before = self._notifiers.get(index)
        self._notifiers[index] = fds, kick, call
        self._kernel[index // 2].set_eventfds(index & 1, kick.fd, call.fd, self._error)
        if before is not None:
            before[1].close()
            before[2].close()

    def changed(self) -> None:
        """The memory map, eventfds, or the set of rings differ. ValueError or OSError as `start`."""
        if self._stopping:
            return
        if not self._taken.memory_is_told:
            before, self._map = self._map, GuestMap(self.device)
            try:
                for each in self._kernel:
                    each.set_memory(self._map.ranges)
                for index in sorted(self._running):
                    self._place(index)
            except BaseException:
                self._map.keep(before)  # rings may be in either until the kernel has stopped
                raise
            before.close()
            self._taken.memory, self._taken.generation = self.device.memory, self.device.memory.generation
        for index in sorted(self._running):
            self._connect(index)
        self._start_rings()

    # -- what the kernel reports ----------------------------------------------------------------------------------

    def _failed(self) -> None:
        """The kernel found invalid data in a ring, or could not access it (vq_err)."""
        with contextlib.suppress(OSError):
            os.eventfd_read(self._error)
        self._owner.refuse("it found invalid data in a ring")

    # -- return -----------------------------------------------------------------------------------------------------

    def give_back(self, done: Returned) -> None:
        """vhost_net_stop, which waits for the kernel's worker, in a thread; `done` is called when the rings are back in
        this process."""
        self._stopping = True
        self._loop.remove_reader(self._error)

        def stop() -> None:
            bases = [base for each in self._kernel for base in each.stop()]
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stopped, bases, done)

        try:
            thread_beside("vhost", stop).start()
        except RuntimeError:  # no thread can start: then it has to be here
            stop()

    def _stopped(self, bases: Sequence[int | None], done: Returned) -> None:
        self._close()
        self._taken.reclaim()
        done([base if index in self._running else None for index, base in enumerate(bases)])

    def _close(self) -> None:
        for _, kick, call in self._notifiers.values():
            kick.close()
            call.close()
        self._notifiers.clear()
        self._map.close()
        if self._error >= 0:
            self._loop.remove_reader(self._error)
            os.close(self._error)
            self._error = -1

"""VirtioDevice, the base of all virtio devices, and RingBackend, a back-end that can run the guest's rings itself.

A transport (vhost-user, virtio-pci) calls VirtioDevice; the device model calls the transport through Attachment.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from vnic.keep import NO_KEPT, Kept
from vnic.lifecycle import Lifecycle
from vnic.memory.guest import NO_MEMORY, GuestMemory
from vnic.virtio.attachment import NO_ATTACHMENT, Attachment, VirtioHandles
from vnic.virtio.constants import LOGGED_BREAKS, STATUS_DRIVER_OK, STATUS_FEATURES_OK, STATUS_NEEDS_RESET
from vnic.virtio.device_record import MOVES, DataPath, VirtioDeviceRecord
from vnic.virtio.features import EVENT_IDX, INDIRECT_DESC, VERSION_1
from vnic.virtio.queue import QueueError, SplitQueue

log = logging.getLogger(__name__)


class RingBackend(ABC):
    """A back-end's Endpoint that can run a guest's rings itself (vhost-user, vhost-kernel), so that no packet
    passes through this process."""

    ring_features: int | None = None
    """The virtio feature bits it can serve; None before the first connection."""

    takes = True
    """False: not those of the VM that is attached now. When it differs, the device's `update_datapath` is called."""

    @abstractmethod
    def take_rings(self, device: VirtioDevice) -> bool:
        """Take the device's data rings that are `ready` and `enabled`; those not in use are passed as disabled. It
        gets memory, addresses, `last_avail` as base, and fds from `device.attachment.hand_over_queue`. False: it
        cannot; no queue was handed over, and the rings stay in this process."""

    @abstractmethod
    def give_back(self, device: VirtioDevice, done: Callable[[Sequence[int | None]], None]) -> None:
        """Stop, and call `done` once, now or later, when the back-end no longer accesses the rings. Every queue that
        was handed over is reclaimed by then. `done` gets, per queue of `device.queues`, the base to resume from; None
        (also beyond the list's end) means used.idx. A back-end that does not answer is disconnected, and `done` is
        called all the same."""

    @abstractmethod
    def rings_changed(self, device: VirtioDevice) -> None:
        """While the back-end has the rings: the memory map, a ring's eventfds, or the set of ready or enabled rings
        changed."""


class VirtioDevice(ABC):
    """The part that all virtio devices share: features, status, rings, and the data path of the rings.

    Transports call the public methods from the control thread; no method raises for anything that a driver does.
    """

    device_id = 0
    datapath = Lifecycle(DataPath.OFF, MOVES, told="changed")
    kept: Kept = NO_KEPT
    """Where its state is kept; set before a VM attaches, and before `restore`."""

    def __init__(self, queues: Sequence[SplitQueue]) -> None:
        self.queues = list(queues)
        self.attachment: Attachment = NO_ATTACHMENT
        self.memory = NO_MEMORY
        self.status = 0
        self.host_features = 0
        """The features offered to the driver; computed when a VM attaches and at each reset."""
        self.driver_features = 0
        self.transport_features = 0
        """The features that the transport adds to the device's; set before a VM attaches."""
        self.generation = 0
        """Config generation (§2.5): differs after each change of config space."""
        self.config_size = 0
        self._features_refused = 0
        self._ring_backend: RingBackend | None = None
        self._when_returned: list[Callable[[], None]] = []
        self._resetting = False
        self._detaching = False
        """The VM has gone, and a RingBackend still has its rings."""
        self._restored = False
        """The process before may not have told the driver all."""
        self._stopping: set[int] = set()
        """Rings that stop after the RingBackend has returned them."""
        self._breaks = 0

    # -- overridden by device models ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """For log lines."""

    @abstractmethod
    def offer_features(self) -> int:
        """The features to offer with the present back-end."""

    @abstractmethod
    def features_changed(self) -> None:
        """`driver_features` was set."""

    @abstractmethod
    def driver_ok_changed(self, driver_ok: bool) -> None:
        """The driver set DRIVER_OK, or the device was reset."""

    @abstractmethod
    def reset_state(self) -> None:
        """Reset the driver's settings to their defaults."""

    @abstractmethod
    def read_config(self, offset: int, length: int) -> bytes:
        """`length` bytes of config space; bytes beyond its end read as ff."""

    @abstractmethod
    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes config space; read-only fields ignore it."""

    @abstractmethod
    def kick(self, index: int) -> None:
        """The driver made buffers available. Does a bounded amount of work and continues in later turns."""

    @abstractmethod
    def carries_packets(self, index: int) -> bool:
        """Whether the ring carries packets, in use or not: a RingBackend keeps one that is no longer in use."""

    @abstractmethod
    def is_data_queue(self, index: int) -> bool:
        """Whether the ring carries packets and is in use, so that a RingBackend may take it."""

    @abstractmethod
    def ring_backend(self) -> RingBackend | None:
        """The back-end, if it is a RingBackend."""

    @abstractmethod
    def wanted_datapath(self) -> DataPath:
        """OFF, DISCARD or LOCAL; a RingBackend may replace LOCAL."""

    @abstractmethod
    def serve(self, datapath: DataPath) -> None:
        """Process the data rings in this process as `datapath` says; OFF or TAKEN: touch none of them."""

    @abstractmethod
    def look_at_rings(self) -> None:
        """Process all rings in a later turn, as if each had been kicked."""

    @abstractmethod
    def interrupt_now(self, index: int) -> None:
        """The ring will stop: send its pending interrupt now."""

    def changed(self) -> None:
        """A record would differ from the last one. The cursors of rings are no part of it: see SplitQueue.restore."""
        self.kept.changed()

    # -- called by the transport: attach, features, status ------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether a VM is attached."""
        return self.attachment is not NO_ATTACHMENT

    def attach(self, attachment: Attachment, memory: GuestMemory) -> None:
        """A VM attaches. The transport keeps ownership of `memory`: it fills, changes and closes it."""
        self.attachment = attachment
        self.memory = memory
        memory.on_change.append(self._memory_changed)
        self._breaks = 0
        self.host_features = self.offer_features()
        self.changed()

    def detach(self, done: Callable[[], None] | None = None) -> None:
        """The VM detached; `done` is called, now or later, when its memory is no longer accessed."""

        def finish() -> None:
            if self.attached:
                self.memory.on_change.remove(self._memory_changed)
            self.attachment, self.memory = NO_ATTACHMENT, NO_MEMORY
            self._detaching = False
            if done is not None:
                done()

        self._detaching = True
        self.reset(finish)

    def withhold(self, features: int) -> None:
        """The transport cannot serve these features to the attached VM. A driver that has negotiated one of them
        already has to reset the device, and then chooses without them."""
        self.transport_features &= ~features
        self.host_features &= ~features
        self.changed()
        if self.driver_features & features:
            self.status |= STATUS_NEEDS_RESET
            self.attachment.needs_reset()

    def set_features(self, features: int) -> bool:
        """The driver's features. False: it chose features that were not offered; they are cleared, and FEATURES_OK is
        not accepted until the driver chooses again."""
        self._features_refused = features & ~self.host_features
        self.driver_features = features & self.host_features
        for queue in self.queues:
            queue.indirect = bool(self.driver_features & INDIRECT_DESC)
            queue.event_idx = bool(self.driver_features & EVENT_IDX)
        self.features_changed()
        self.changed()
        return not self._features_refused

    def set_status(self, status: int) -> None:
        """The driver writes device status (§2.1.2, §3.1.1); 0 resets. Only the device sets NEEDS_RESET."""
        if self._resetting:
            return  # it has to wait until it reads 0 (§2.1.2)
        if status == 0:
            self.reset()
            return
        if status & STATUS_FEATURES_OK and self._features_refused:
            status &= ~STATUS_FEATURES_OK
        old = self.status
        self.status = (status & ~STATUS_NEEDS_RESET) | (old & STATUS_NEEDS_RESET)
        self.changed()
        if (self.status ^ old) & STATUS_DRIVER_OK:
            self.driver_ok_changed(bool(status & STATUS_DRIVER_OK))
        self.update_datapath()

    def reset(self, done: Callable[[], None] | None = None) -> None:
        """Device reset (§2.4). While a back-end has rings, `status` keeps its value until they are back, and the driver
        waits for it to read 0; `done` is called then."""
        self._resetting = True
        self.changed()
        self._when_here(lambda: self._finish_reset(done))
        self.update_datapath()

    def _finish_reset(self, done: Callable[[], None] | None) -> None:
        self._resetting = False
        self.serve(DataPath.OFF)
        was_ok = self.status & STATUS_DRIVER_OK
        self.status = 0
        for queue in self.queues:
            queue.reset()
        self.host_features = self.offer_features()
        self.reset_state()
        self.set_features(0)
        if was_ok:
            self.driver_ok_changed(False)
        if done is not None:
            done()

    # -- called by the transport: rings -------------------------------------------------------------------------

    def queue_ready(self, index: int, base: int | None = None) -> bool:
        """Start a ring whose size and addresses the transport has set in `queues[index]`.

        `base` is the avail index to continue from; None means used.idx. False: they are invalid; the ring is broken
        and the reason is logged. The ring is processed in a later turn, with or without a kick.
        """
        queue = self.queues[index]
        try:
            queue.setup(self.memory, base)
        except QueueError as error:
            self.queue_failed(queue, error)
            return False
        self._rings_changed()
        return True

    def queue_stopped(self, index: int, done: Callable[[int], None] | None = None) -> None:
        """Stop a ring; `done(base)` is called, now or later, when it is no longer accessed."""

        def finish() -> None:
            self._stopping.discard(index)
            self.interrupt_now(index)
            base = self.queues[index].stop()
            self.changed()
            if done is not None:
                done(base)

        if self.carries_packets(index):
            self._stopping.add(index)
            self._when_here(finish)
            self.update_datapath()
        else:
            finish()

    def queue_enabled(self, index: int, enabled: bool) -> None:
        """vhost-user SET_VRING_ENABLE: packets of a disabled TX ring are discarded, a disabled RX ring gets none."""
        self.queues[index].enabled = enabled
        self._rings_changed()

    def queue_fds_changed(self, index: int) -> None:
        """The ring's kick or call eventfd was replaced: a back-end that has the ring gets the new ones."""
        if self._ring_backend is not None and self.carries_packets(index):
            self._ring_backend.rings_changed(self)

    def _rings_changed(self) -> None:
        self.changed()
        self.update_datapath()
        if self.datapath is DataPath.TAKEN and self._ring_backend is not None:
            self._ring_backend.rings_changed(self)
        self.look_at_rings()

    def _memory_changed(self) -> None:
        for queue in self.queues:
            queue.invalidate()
        self._rings_changed()

    def queue_failed(self, queue: SplitQueue, error: QueueError) -> None:
        """Mark a ring as broken: log one line, and set NEEDS_RESET for a VERSION_1 driver (§2.1.2). Other rings
        continue."""
        queue.fail()
        self._breaks += 1
        self.changed()
        # A VM whose memory is lost will be disconnected, and that is logged.
        told = self._breaks <= LOGGED_BREAKS and not self.memory.lost
        level = logging.WARNING if told else logging.DEBUG
        log.log(level, "%s: queue %d is broken until the guest resets it: %s", self.name, queue.index, error)
        if self.driver_features & VERSION_1 and self.status & STATUS_DRIVER_OK:
            self.status |= STATUS_NEEDS_RESET
            self.attachment.needs_reset()

    # -- state apart from handles -------------------------------------------------------------------------------

    def save_device(self) -> VirtioDeviceRecord:
        """The record of the shared part. Rings that a RingBackend is returning count as still taken; `go_on` asks for
        them again, and repeats the reset or the ring stop that waits for them. A VM that is leaving has left."""
        if self._detaching:
            return VirtioDeviceRecord.without_vm(self.queues, self.offer_features(), self.generation)
        away = self.datapath in (DataPath.TAKEN, DataPath.RETURNING)
        return VirtioDeviceRecord(
            attached=self.attached,
            status=self.status,
            host_features=self.host_features,
            driver_features=self.driver_features,
            features_refused=self._features_refused,
            generation=self.generation,
            datapath=DataPath.TAKEN if away else self.datapath,
            returning=self.datapath is DataPath.RETURNING,
            resetting=self._resetting,
            stopping=sorted(self._stopping),
            breaks=self._breaks,
            queues=[queue.save() for queue in self.queues],
        )

    def restore_device(self, record: VirtioDeviceRecord, handles: VirtioHandles) -> None:
        """Take the checked record; call `go_on` after the rest of the device is restored."""
        self.attachment, self.memory = handles
        if self.attached:
            self.memory.on_change.append(self._memory_changed)
        self.status, self.generation = record.status, record.generation
        self.host_features, self.driver_features = record.host_features, record.driver_features
        self._features_refused, self._breaks = record.features_refused, record.breaks
        for queue, each in zip(self.queues, record.queues, strict=True):
            queue.restore(each, self.memory)

    def go_on(self, record: VirtioDeviceRecord) -> None:
        """Process the rings again. A RingBackend that had them and no longer exists counts as crashed."""
        self._restored = True
        VirtioDevice.datapath.restore(self, record.datapath)
        if self.datapath is DataPath.TAKEN:
            self._ring_backend = self.ring_backend()
            if self._ring_backend is None:
                for index in range(len(self.queues)):
                    self.attachment.reclaim_queue(index)
            if self._ring_backend is None or record.returning:
                self._take_back()
        for index in record.stopping:
            self.queue_stopped(index)
        if record.resetting:
            self.reset()
        self.update_datapath()
        self.look_at_rings()

    def tell_again(self) -> None:
        """After `go_on`: the process before may have been killed between a look at a ring and what follows from it."""
        if not self._restored:
            return
        self._restored = False
        for queue in self.queues:
            if queue.ready:
                queue.revive()
                self.attachment.queue_interrupt(queue.index)

    # -- data path of the rings ---------------------------------------------------------------------------------

    def update_datapath(self) -> None:
        """Status, link, peer or rings changed: start or stop the data plane here, or hand the rings over or take
        them back (QEMU's virtio_net_set_status and virtio_net_vhost_status). Idempotent."""
        if self.datapath is DataPath.RETURNING:
            return  # comes here again when they are back
        wanted = self.wanted_datapath()
        back_end = self.ring_backend() if wanted is DataPath.LOCAL else None
        if back_end is not None and not self._rings_in_memory():
            back_end = None
        if self.datapath is DataPath.TAKEN:
            if back_end is not self._ring_backend:
                self._take_back()
            return
        if back_end is not None and self._hand_over(back_end):
            return
        if wanted is DataPath.OFF is self.datapath:
            return  # as it is while a driver sets its rings up
        self.datapath = wanted
        self.serve(wanted)

    def _rings_in_memory(self) -> bool:
        """Whether a back-end can access the rings: not while the VM has unmapped memory that a ring is in."""
        rings = (queue for queue in self.queues if queue.ready and self.carries_packets(queue.index))
        return all(queue.in_memory() for queue in rings)

    def _hand_over(self, back_end: RingBackend) -> bool:
        ours = [queue for queue in self.queues if queue.ready and self.carries_packets(queue.index)]
        if not all(queue.ready for queue in self.queues[:2]):
            return False  # a driver sets one ring up after the other
        self.serve(DataPath.OFF)
        for queue in ours:
            queue.hand_over()
        self._ring_backend, self.datapath = back_end, DataPath.TAKEN
        if back_end.take_rings(self):
            return True
        self._ring_backend, self.datapath = None, DataPath.OFF
        log.warning("%s: the back-end did not take the rings over; packets pass through vnic", self.name)
        return False

    def _take_back(self) -> None:
        back_end, self._ring_backend = self._ring_backend, None
        self.datapath = DataPath.RETURNING
        if back_end is None:
            self._returned(())
        else:
            back_end.give_back(self, self._returned)

    def _returned(self, bases: Sequence[int | None]) -> None:
        if self.datapath is not DataPath.RETURNING:
            return
        for queue in self.queues:
            if queue.ready and self.carries_packets(queue.index):
                queue.resume(bases[queue.index] if queue.index < len(bases) else None)
        while self._when_returned:  # all of them, before a RingBackend may take the rings again
            self._when_returned.pop(0)()
        self.datapath = DataPath.OFF
        self.update_datapath()
        self.look_at_rings()

    def _when_here(self, callback: Callable[[], None]) -> None:
        """Run `callback` when no RingBackend has the rings: now, or after they are returned."""
        if self.datapath is DataPath.TAKEN:
            self._when_returned.append(callback)
            self._take_back()
        elif self.datapath is DataPath.RETURNING:
            self._when_returned.append(callback)
        else:
            callback()

"""What a NIC's device model and the two sides around it owe each other: Attachment (how the VM is reached),
VirtioDevice (what a virtio transport drives) and RingBackend (a back-end that can run the guest's rings itself).

A transport (attach vhost-user, virtio-pci) calls VirtioDevice; the device model calls back through Attachment.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from vnic.memory.guest import GuestMemory
from vnic.virtio.constants import STATUS_DRIVER_OK, STATUS_FEATURES_OK, STATUS_NEEDS_RESET
from vnic.virtio.device_record import DataPath, VirtioDeviceRecord
from vnic.virtio.features import INDIRECT_DESC, VERSION_1
from vnic.virtio.queue import QueueError, SplitQueue

log = logging.getLogger(__name__)

LOGGED_BREAKS = 16
"""Broken rings that are logged for one VM: a hostile driver that resets and breaks again must not fill the log."""


class QueueFds(NamedTuple):
    """The eventfds of one ring, owned by the attachment and good until they are reclaimed.

    `kick` None: the driver polls, or is polled for. `call` None: the driver wants no interrupt.
    """

    kick: int | None
    call: int | None


class Attachment(Protocol):
    """What a device model needs of the transport that serves it to a VM. No method blocks or raises."""

    def config_interrupt(self) -> bool:
        """Tell the guest that status or config changed. False: it cannot be told now; True: told, or about to be."""
        ...

    def queue_interrupt(self, index: int) -> None:
        """Tell the guest that the ring has used buffers; the driver's wish not to hear it was already heeded."""
        ...

    def link_changed(self, up: bool) -> None:
        """The link changed: for transports that show it by their socket. Comes before config_interrupt."""
        ...

    def needs_reset(self) -> None:
        """The device broke a ring and its status has NEEDS_RESET now: tell the guest where that is possible."""
        ...

    def hand_over_queue(self, index: int) -> QueueFds | None:
        """Stop serving the ring's kicks and give its eventfds, which then go straight to a back-end.

        A transport whose kicks or interrupts are messages makes eventfds and turns one into the other.
        None: not possible; the ring stays here.
        """
        ...

    def reclaim_queue(self, index: int) -> None:
        """The ring is ours again: serve its kicks. The caller looks at the ring itself, no kick need be made up."""
        ...


class RingBackend(ABC):
    """A back-end's Endpoint that can run a guest's rings itself (vhost-user, vhost-kernel), so that no packet
    passes through this process."""

    ring_features: int | None = None
    """The virtio feature bits it can serve; None while it never said (not connected yet)."""

    @abstractmethod
    def take_rings(self, device: VirtioDevice) -> bool:
        """Start on the device's rings for packets that are `ready` and `enabled`, with those that are not in use
        disabled: memory, addresses, `last_avail` as base, fds from `device.attachment.hand_over_queue`. False: it
        cannot, no queue was handed over, the rings stay here."""

    @abstractmethod
    def give_back(self, device: VirtioDevice, done: Callable[[Sequence[int | None]], None]) -> None:
        """Stop, and then call `done` once, now or later, when the rings are not touched any more. Every queue that was
        handed over has been reclaimed by then. `done` gets, per queue of `device.queues`, the base to resume from;
        None (also beyond the list's end): from used.idx. A back-end that does not answer is cut off, and `done` called
        nevertheless."""

    @abstractmethod
    def rings_changed(self, device: VirtioDevice) -> None:
        """While the rings are taken: the memory map, a ring's eventfds, or which rings are ready or enabled,
        changed."""


class VirtioHandles(NamedTuple):
    """What a restored device works with; both are there while a VM is attached."""

    attachment: Attachment | None
    memory: GuestMemory | None


class VirtioDevice(ABC):
    """The part of a virtio device that is the same for all: features, status, rings and who works on them.

    Transports call the public methods, in the control thread; nothing a driver does makes one of them raise.
    """

    device_id = 0

    def __init__(self, queues: Sequence[SplitQueue]) -> None:
        self.queues = list(queues)
        self.attachment: Attachment | None = None
        self.memory: GuestMemory | None = None
        self.status = 0
        self.host_features = 0
        """What the driver is offered; settled when a VM attaches and at each reset."""
        self.driver_features = 0
        self.transport_features = 0
        """What the transport adds to the device's own, before a VM attaches."""
        self.generation = 0
        """Config generation (§2.5): differs after each change of config space."""
        self.config_size = 0
        self.datapath = DataPath.OFF
        self._features_refused = 0
        self._ring_backend: RingBackend | None = None
        self._when_returned: list[Callable[[], None]] = []
        self._resetting = False
        self._stopping: set[int] = set()
        """Rings that stop when the RingBackend has given them back."""
        self._breaks = 0

    # -- what a device model fills in ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """For log lines."""

    @abstractmethod
    def offer_features(self) -> int:
        """The features to offer, given the back-end there is now."""

    @abstractmethod
    def features_changed(self) -> None:
        """`driver_features` was set."""

    @abstractmethod
    def driver_ok_changed(self, driver_ok: bool) -> None:
        """The driver took the device into use, or let it go."""

    @abstractmethod
    def reset_state(self) -> None:
        """Return what the driver configured to its defaults."""

    @abstractmethod
    def read_config(self, offset: int, length: int) -> bytes:
        """`length` bytes of config space; ff behind its end."""

    @abstractmethod
    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes config space; what is read-only stays."""

    @abstractmethod
    def kick(self, index: int) -> None:
        """The driver made buffers available. Does a bounded amount of work and goes on in later turns."""

    @abstractmethod
    def carries_packets(self, index: int) -> bool:
        """Whether the ring is one for packets, in use or not: a RingBackend keeps one that goes out of use."""

    @abstractmethod
    def is_data_queue(self, index: int) -> bool:
        """Whether the ring carries packets and is in use: those a RingBackend may take."""

    @abstractmethod
    def ring_backend(self) -> RingBackend | None:
        """The back-end, if it can run rings."""

    @abstractmethod
    def wanted_datapath(self) -> DataPath:
        """OFF, DISCARD or LOCAL; a RingBackend comes in where LOCAL is wanted."""

    @abstractmethod
    def serve(self, datapath: DataPath) -> None:
        """Work on the data rings here as `datapath` says; OFF (or TAKEN): touch none of them."""

    @abstractmethod
    def look_at_rings(self) -> None:
        """Look, in a later turn, at all rings as if each had been kicked."""

    @abstractmethod
    def interrupt_now(self, index: int) -> None:
        """The ring is about to stop: send the interrupt that was to go out later in this turn."""

    # -- for the transport: life --------------------------------------------------------------------------------

    def attach(self, attachment: Attachment, memory: GuestMemory) -> None:
        """A VM plugs in. `memory` stays the transport's: it fills, changes and closes it."""
        self.attachment = attachment
        self.memory = memory
        memory.on_change.append(self._memory_changed)
        self._breaks = 0
        self.host_features = self.offer_features()

    def detach(self, done: Callable[[], None] | None = None) -> None:
        """The VM is gone; `done` is called, now or later, when nothing touches its memory any more."""

        def finish() -> None:
            if self.memory is not None:
                self.memory.on_change.remove(self._memory_changed)
            self.attachment = None
            self.memory = None
            if done is not None:
                done()

        self.reset(finish)

    def set_features(self, features: int) -> bool:
        """The driver's choice. False: it chose what was not offered; such bits are left out, and FEATURES_OK is
        not accepted until it chooses again."""
        self._features_refused = features & ~self.host_features
        self.driver_features = features & self.host_features
        for queue in self.queues:
            queue.indirect = bool(self.driver_features & INDIRECT_DESC)
        self.features_changed()
        return not self._features_refused

    def set_status(self, status: int) -> None:
        """The driver writes device status (§2.1.2, §3.1.1); 0 resets. NEEDS_RESET is only the device's to set."""
        if self._resetting:
            return  # it has to wait until it reads 0 (§2.1.2)
        if status == 0:
            self.reset()
            return
        if status & STATUS_FEATURES_OK and self._features_refused:
            status &= ~STATUS_FEATURES_OK
        old = self.status
        self.status = (status & ~STATUS_NEEDS_RESET) | (old & STATUS_NEEDS_RESET)
        if (self.status ^ old) & STATUS_DRIVER_OK:
            self.driver_ok_changed(bool(status & STATUS_DRIVER_OK))
        self.update_datapath()

    def reset(self, done: Callable[[], None] | None = None) -> None:
        """Device reset (§2.4). While rings are at a back-end `status` keeps its value until they are back, which
        is what a driver waits for; `done` is called then."""
        self._resetting = True
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

    # -- for the transport: rings -------------------------------------------------------------------------------

    def queue_ready(self, index: int, base: int | None = None) -> bool:
        """Start a ring whose size and addresses the transport has put into `queues[index]`.

        `base`: the avail index to go on from; None takes used.idx. False: they cannot be used; the ring is
        broken and the reason logged. The ring is looked at in a later turn, with or without a kick.
        """
        queue = self.queues[index]
        try:
            if self.memory is None:
                raise QueueError("there is no guest memory")
            queue.setup(self.memory, base)
        except QueueError as error:
            self.queue_failed(queue, error)
            return False
        self._rings_changed()
        return True

    def queue_stopped(self, index: int, done: Callable[[int], None] | None = None) -> None:
        """Stop a ring; `done(base)` is called, now or later, when nothing touches it any more."""

        def finish() -> None:
            self._stopping.discard(index)
            self.interrupt_now(index)
            base = self.queues[index].stop()
            if done is not None:
                done(base)

        if self.carries_packets(index):
            self._stopping.add(index)
            self._when_here(finish)
            self.update_datapath()
        else:
            finish()

    def queue_enabled(self, index: int, enabled: bool) -> None:
        """vhost-user SET_VRING_ENABLE: from a disabled TX ring is discarded, a disabled RX ring gets nothing."""
        self.queues[index].enabled = enabled
        self._rings_changed()

    def queue_fds_changed(self, index: int) -> None:
        """The ring's kick or call eventfd was replaced: a back-end that has the ring gets the new ones."""
        if self._ring_backend is not None and self.carries_packets(index):
            self._ring_backend.rings_changed(self)

    def _rings_changed(self) -> None:
        self.update_datapath()
        if self.datapath is DataPath.TAKEN and self._ring_backend is not None:
            self._ring_backend.rings_changed(self)
        self.look_at_rings()

    def _memory_changed(self) -> None:
        for queue in self.queues:
            queue.invalidate()
        self._rings_changed()

    def queue_failed(self, queue: SplitQueue, error: QueueError) -> None:
        """Break a ring: one log line, NEEDS_RESET where the driver knows it (§2.1.2), and the others go on."""
        queue.fail()
        self._breaks += 1
        # A VM whose memory is lost is about to be cut off, which says all that there is to say.
        told = self._breaks <= LOGGED_BREAKS and not (self.memory is not None and self.memory.lost)
        level = logging.WARNING if told else logging.DEBUG
        log.log(level, "%s: queue %d is broken until the guest resets it: %s", self.name, queue.index, error)
        if self.driver_features & VERSION_1 and self.status & STATUS_DRIVER_OK:
            self.status |= STATUS_NEEDS_RESET
            if self.attachment is not None:
                self.attachment.needs_reset()

    # -- state apart from handles -------------------------------------------------------------------------------

    def save_device(self) -> VirtioDeviceRecord:
        """What all virtio devices have. Rings that are on their way back are still at the RingBackend, and what waits
        for them, a reset or a ring's end, is asked for again by `go_on`."""
        away = self.datapath in (DataPath.TAKEN, DataPath.RETURNING)
        return VirtioDeviceRecord(
            attached=self.attachment is not None,
            status=self.status,
            host_features=self.host_features,
            driver_features=self.driver_features,
            features_refused=self._features_refused,
            generation=self.generation,
            datapath=DataPath.TAKEN if away else self.datapath,
            resetting=self._resetting,
            stopping=sorted(self._stopping),
            breaks=self._breaks,
            queues=[queue.save() for queue in self.queues],
        )

    def restore_device(self, record: VirtioDeviceRecord, handles: VirtioHandles) -> None:
        """Take the record over, once it was checked; `go_on` follows when the rest of the device is there."""
        self.attachment, self.memory = handles
        if self.memory is not None:
            self.memory.on_change.append(self._memory_changed)
        self.status, self.generation = record.status, record.generation
        self.host_features, self.driver_features = record.host_features, record.driver_features
        self._features_refused, self._breaks = record.features_refused, record.breaks
        for queue, each in zip(self.queues, record.queues, strict=True):
            queue.restore(each, self.memory)

    def go_on(self, record: VirtioDeviceRecord) -> None:
        """Work on the rings again. A RingBackend that had them and is gone counts as having crashed."""
        self.datapath = record.datapath
        if self.datapath is DataPath.TAKEN:
            self._ring_backend = self.ring_backend()
            if self._ring_backend is None:
                self.datapath = DataPath.RETURNING
                self._returned(())
        for index in record.stopping:
            self.queue_stopped(index)
        if record.resetting:
            self.reset()
        self.update_datapath()
        self.look_at_rings()

    # -- who works on the rings ---------------------------------------------------------------------------------

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
            if back_end is not self._ring_backend or back_end is None:
                self._take_back()
            return
        if back_end is not None and self._hand_over(back_end):
            return
        self.datapath = wanted
        self.serve(wanted)

    def _rings_in_memory(self) -> bool:
        """While a VM has a part of its memory unmapped that a ring lies in, no back-end can work on the ring."""
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
        assert back_end is not None
        self.datapath = DataPath.RETURNING
        back_end.give_back(self, self._returned)

    def _returned(self, bases: Sequence[int | None]) -> None:
        if self.datapath is not DataPath.RETURNING:
            return
        for queue in self.queues:
            if queue.ready and self.carries_packets(queue.index):
                queue.resume(bases[queue.index] if queue.index < len(bases) else None)
        while self._when_returned:  # all of them, before the rings may go out again
            self._when_returned.pop(0)()
        self.datapath = DataPath.OFF
        self.update_datapath()
        self.look_at_rings()

    def _when_here(self, callback: Callable[[], None]) -> None:
        """Run `callback` when no RingBackend has the rings: now, or after they came back."""
        if self.datapath is DataPath.TAKEN:
            self._when_returned.append(callback)
            self._take_back()
        elif self.datapath is DataPath.RETURNING:
            self._when_returned.append(callback)
        else:
            callback()

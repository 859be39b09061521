"""A back-end that takes a guest's rings, as the vhost-user netdev does, and touches none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vnic.net.client import Endpoint
from vnic.net.queue import Frame
from vnic.nic.virtio_net import features
from vnic.virtio.attachment import QueueFds
from vnic.virtio.device import RingBackend, VirtioDevice

ALL = features.OF_THE_RINGS


class FakeRingBackend(Endpoint, RingBackend):
    """A back-end that takes rings; it gives them back when `answer` is called, at once if `prompt`."""

    def __init__(self, ring_features: int | None = ALL) -> None:
        self.ring_features = ring_features
        self.willing = True
        self.prompt = True
        self.device: VirtioDevice | None = None
        self.taken: dict[int, tuple[int, QueueFds | None]] = {}
        self.times = 0
        self.changes = 0
        self.bases: list[int | None] = []
        self.waiting: list[Callable[[Sequence[int | None]], None]] = []
        self.frames: list[bytes] = []

    def take_rings(self, device: VirtioDevice) -> bool:
        if not self.willing:
            return False
        assert self.device is None
        self.device = device
        self.times += 1
        for queue in device.queues:
            if queue.ready and queue.enabled and device.is_data_queue(queue.index):
                self.taken[queue.index] = (queue.last_avail, device.attachment.hand_over_queue(queue.index))
        return True

    def give_back(self, device: VirtioDevice, done: Callable[[Sequence[int | None]], None]) -> None:
        assert device is self.device
        self.waiting.append(done)
        if self.prompt:
            self.answer()

    def answer(self) -> None:
        """The back-end has stopped."""
        device, self.device = self.device, None
        assert device is not None
        for index in self.taken:
            device.attachment.reclaim_queue(index)
        self.taken.clear()
        self.waiting.pop()(self.bases)

    def moved(self, device: VirtioDevice) -> None:
        """Another device has taken the place of the one whose rings it has; what was to be told to that one is
        gone."""
        self.waiting.clear()
        if self.device is not None:
            self.device = device

    def rings_changed(self, device: VirtioDevice) -> None:
        assert device is self.device
        self.changes += 1

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        self.frames.append(bytes(frame))
        return True

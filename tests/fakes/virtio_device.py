"""A virtio device for tests of transports: it returns chains and records calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vnic.virtio.attachment import QueueFds
from vnic.virtio.device import RingBackend, VirtioDevice
from vnic.virtio.device_record import DataPath
from vnic.virtio.features import INDIRECT_DESC, VERSION_1
from vnic.virtio.queue import QueueError, SplitQueue


class FakeVirtioDevice(VirtioDevice):
    """Two data queues and a control queue; 8 bytes of config space."""

    device_id = 1

    def __init__(self) -> None:
        super().__init__([SplitQueue(index, 256) for index in range(3)])
        self.calls: list[object] = []
        self.config = bytearray(b"vnictest")
        self.config_size = 8
        self.back_end: RingBackend | None = None
        self.host_features = self.offer_features()

    @property
    def name(self) -> str:
        return "fake0"

    def offer_features(self) -> int:
        return VERSION_1 | INDIRECT_DESC | self.transport_features | 1

    def features_changed(self) -> None:
        pass

    def driver_ok_changed(self, driver_ok: bool) -> None:
        self.calls.append(("driver_ok", driver_ok))

    def reset_state(self) -> None:
        self.calls.append("reset")

    def read_config(self, offset: int, length: int) -> bytes:
        return bytes(self.config[offset : offset + length]).ljust(length, b"\xff")

    def write_config(self, offset: int, data: bytes) -> None:
        self.calls.append(("config", offset, data))

    def kick(self, index: int) -> None:
        """Return every chain at once, filled with nothing."""
        self.calls.append(("kick", index))
        queue = self.queues[index]
        try:
            while (chain := queue.pop()) is not None:
                queue.push(chain.head, 0)
        except QueueError as error:
            self.queue_failed(queue, error)
            return
        if queue.should_interrupt():
            self.attachment.queue_interrupt(index)

    def carries_packets(self, index: int) -> bool:
        return index < 2

    def is_data_queue(self, index: int) -> bool:
        return self.carries_packets(index)

    def ring_backend(self) -> RingBackend | None:
        return self.back_end

    def wanted_datapath(self) -> DataPath:
        return DataPath.LOCAL if self.status & 4 else DataPath.OFF

    def serve(self, datapath: DataPath) -> None:
        pass

    def look_at_rings(self) -> None:
        pass

    def interrupt_now(self, index: int) -> None:
        pass

    def change_config(self, data: bytes) -> bool:
        """Change the config and notify the driver."""
        self.config[: len(data)] = data
        self.generation += 1
        return self.attachment.config_interrupt()


class SlowBackend(RingBackend):
    """A back-end that has the rings of such a device, and returns them when the test calls `returned`."""

    ring_features: int | None = VERSION_1 | 1

    def __init__(self) -> None:
        self.fds: list[QueueFds | None] = []
        self.changes = 0
        self.done: Callable[[Sequence[int | None]], None] | None = None

    def take_rings(self, device: VirtioDevice) -> bool:
        self.fds = [device.attachment.hand_over_queue(index) for index in range(2)]
        return None not in self.fds

    def give_back(self, device: VirtioDevice, done: Callable[[Sequence[int | None]], None]) -> None:
        self.done = done

    def returned(self, device: VirtioDevice) -> None:
        assert self.done is not None
        for index in range(2):
            device.attachment.reclaim_queue(index)
        self.done([])

    def rings_changed(self, device: VirtioDevice) -> None:
        self.changes += 1

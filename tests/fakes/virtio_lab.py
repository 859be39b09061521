"""A virtio-net NIC with a driver on one side, and a far end that records and sends frames on the other."""

from __future__ import annotations

import itertools

from tests.fakes.events import record_events
from tests.fakes.scheduler import FakeScheduler

from vnic.lab.played.closing import Closing
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.net.client import Endpoint, NetClient, Nic
from vnic.net.clock import Clock
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.nic.virtio_net import VirtioNet

MAC = bytes.fromhex("525400123456")


class FarEnd(Endpoint):
    """A back-end that keeps what it is sent; `room` frames at the most, if that is set."""

    def __init__(self, wants_offload: bool = False) -> None:
        self.wants_offload = wants_offload
        self.frames: list[bytes] = []
        self.queues: list[int] = []
        self.offloads: list[bytes] = []
        self.room: int | None = None
        self.resumed = 0

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if self.room == 0:
            return False
        if self.room is not None:
            self.room -= 1
        self.frames.append(bytes(frame))
        self.queues.append(queue)
        self.offloads.append(offload)
        return True

    def sent(self, queue: int) -> None:
        self.resumed += 1


class TurnScheduler(FakeScheduler):
    """A FakeScheduler that can also be moved by one turn of a loop."""

    def turn(self) -> None:
        """Run the calls that are due now, and not those they schedule (asyncio's _run_once)."""
        due = sorted(call for call in self._calls if call[0] <= self.now)
        self._calls = [call for call in self._calls if call[0] > self.now]
        for _, _, timer in due:
            if not timer.cancelled:
                timer.callback(*timer.args)


class VirtioLab(Closing):
    """One NIC `nic0` wired to `net0`. The driver is not plugged in yet."""

    def __init__(
        self,
        device: VirtioNet | None = None,
        far: Endpoint | None = None,
        *,
        memory_bytes: int = 8 << 20,
        ring_size: int = 256,
        header_bytes: int = 12,
    ) -> None:
        ticks = itertools.count(1_000_000, 1000)
        self.scheduler = TurnScheduler()
        self.network = Network(self.scheduler, Clock(lambda: next(ticks), lambda: next(ticks)))
        self.events = record_events(self.network)
        self.device = device or VirtioNet()
        self.far = far or FarEnd()
        pairs = self.device.pairs
        self.netdev: NetClient = self.network.add_netdev("net0", "stream", self.far, pairs)
        self.nic: Nic = self.network.add_nic(
            "nic0", "virtio-net-pci", self.device, mac=MAC, queues=pairs, netdev_id="net0"
        )
        self.guest = FakeGuestMemory(memory_bytes)
        self.driver = NetDriver(self.guest, pairs=pairs, size=ring_size, header_bytes=header_bytes)

    def close(self) -> None:
        self.driver.close()
        self.network.close()
        self.guest.close()

    def plug(self, features: int | None = None) -> None:
        """Plug the driver in and let it start."""
        self.driver.plug(self.device, features)
        self.settle()

    def settle(self) -> None:
        """Run the loop until nothing is due now."""
        self.scheduler.run_soon()

    def set_link(self, up: bool, name: str = "nic0") -> None:
        self.network.set_link(name, up, "test")

    @property
    def sent(self) -> list[bytes]:
        """What arrived at the far end."""
        assert isinstance(self.far, FarEnd)
        return self.far.frames

    @property
    def datapath(self) -> str:
        """Who works on the data rings."""
        return self.device.datapath.value

    def names(self) -> list[str]:
        """The events so far, by name."""
        return [name for name, _ in self.events]


def frame(number: int = 0, size: int = 60, destination: bytes = MAC) -> bytes:
    """An Ethernet frame that differs from others of another number."""
    head = destination + bytes.fromhex("525400000001") + b"\x88\xb5" + number.to_bytes(4, "big")
    return head + bytes((number + at) & 0xFF for at in range(size - len(head)))

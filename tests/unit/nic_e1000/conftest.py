"""A NIC with a guest at one end and a netdev that records at the other; time stands still until a test moves it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.e1000_driver import E1000Driver
from tests.fakes.events import record_events
from tests.fakes.scheduler import FakeScheduler

from vnic.net.client import Endpoint, Nic
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.net.records import ShownBy
from vnic.nic.intel.e1000 import E1000, MODELS

MAC = bytes.fromhex("525400123456")


class Netdev(Endpoint):
    """The far end of the wire."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.offloads: list[bytes] = []
        self.room = True
        self.sent_calls = 0

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if not self.room:
            return False
        self.frames.append(bytes(frame))
        self.offloads.append(offload)
        return True

    def sent(self, queue: int) -> None:
        self.sent_calls += 1


class Rig:
    """All parts of a test; `driver` is the guest's."""

    def __init__(self, model: str = "e1000", *, link: bool = True, autonegotiation: bool = True) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler)
        self.events = record_events(self.network)
        self.netdev = Netdev()
        self.network.add_netdev("net0", "stream", self.netdev)
        self.device = E1000(MODELS[model], autonegotiation=autonegotiation)
        self.nic: Nic = self.network.add_nic(
            "nic0", self.device.model.name, self.device, mac=MAC, netdev_id="net0", link=link
        )
        self.driver = E1000Driver(self.device)
        self.nic.report.guest_attached(ShownBy.DEVICE)

    def set_link(self, up: bool) -> None:
        self.network.set_link("nic0", up, "test")

    def wire(self, frame: bytes) -> bool:
        """The far end sends a frame."""
        return self.netdev.client.send(0, frame)

    def one_turn(self) -> None:
        """What is due now and nothing that it schedules, as one turn of the real loop."""
        due, self.scheduler._calls = self.scheduler._calls, []
        for _, _, timer in sorted(due):
            if not timer.cancelled:
                timer.callback(*timer.args)

    def close(self) -> None:
        self.driver.close()
        self.network.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


@pytest.fixture
def running(rig: Rig) -> Rig:
    """The same with the guest's driver started."""
    rig.driver.probe()
    rig.driver.start()
    return rig

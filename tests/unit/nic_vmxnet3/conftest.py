"""A NIC with a guest at one end and a netdev that records at the other; time moves only when a test moves it.

Each test with `rig` runs twice: with one NIC, and with a NIC that is saved and restored into a new one before each
register access of the driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.fakes.events import record_events
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.vmxnet3_driver import Vmxnet3Driver

from vnic.net.client import Endpoint, Nic
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.net.records import ShownBy
from vnic.nic.vmxnet3 import Vmxnet3
from vnic.nic.vmxnet3.device import Vmxnet3Record
from vnic.pci.device import PciHandles
from vnic.record import decode, encode

MAC = bytes.fromhex("525400123456")


class Netdev(Endpoint):
    """The far end of the wire."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.offloads: list[bytes] = []
        self.room = True

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if not self.room:
            return False
        self.frames.append(bytes(frame))
        self.offloads.append(offload)
        return True


class Rig:
    """All parts of a test; `driver` is the guest's."""

    def __init__(self, *, link: bool = True, **driver: Any) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler)
        self.events = record_events(self.network)
        self.netdev = Netdev()
        self.network.add_netdev("net0", "stream", self.netdev)
        self.device = Vmxnet3()
        self.nic: Nic = self.network.add_nic(
            "nic0", self.device.name, self.device, mac=MAC, netdev_id="net0", link=link
        )
        self.driver = Vmxnet3Driver(self.device, **driver)
        self.nic.report.guest_attached(ShownBy.DEVICE)

    def restore(self) -> None:
        """Put a new NIC in the place of the one that is there, by its record."""
        old = self.device
        record = old.save()
        for queue in (*old._tx, *old._rx):
            queue.close()
        new = Vmxnet3()
        Network(FakeScheduler()).add_nic("new", old.name, new, mac=self.nic.mac)
        new.client, self.nic.endpoint = self.nic, new
        self.nic.rebind()
        new.restore(decode(Vmxnet3Record, encode(record)), PciHandles(self.driver.irq, self.driver.served))
        assert new.save() == record
        self.device = self.driver.device = new

    def set_link(self, up: bool) -> None:
        self.network.set_link("nic0", up, "test")

    def wire(self, frame: bytes, offload: bytes = b"") -> bool:
        """The far end sends a frame."""
        return self.netdev.client.send(0, frame, offload)

    def close(self) -> None:
        self.driver.close()
        self.network.close()


@pytest.fixture(params=["lives on", "is restored"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig()
    if request.param == "is restored":
        made.driver.before_access = made.restore
    yield made
    made.close()


@pytest.fixture
def running(rig: Rig) -> Rig:
    """The same with the guest's driver started."""
    assert rig.driver.probe() == MAC
    rig.driver.start()
    return rig

"""A NIC with a guest at one end and a netdev that records at the other; time moves only when a test moves it.

Each test with `rig` runs twice: with one NIC, and with a NIC that is saved and restored into a new one repeatedly
between register accesses of the driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.fakes.events import as_sent, record_events
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.tulip_driver import TulipDriver
from tests.unit.nic_e1000.conftest import Netdev

from vnic.net.network import Network
from vnic.net.records import ShownBy
from vnic.nic.tulip import Tulip
from vnic.nic.tulip.record import TulipRecord
from vnic.pci.device import PciHandles
from vnic.record import decode, encode

MAC = bytes.fromhex("525400123456")


class Rig:
    """All parts of a test; `driver` is the guest's."""

    def __init__(self, *, link: bool = True, **driver: Any) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler)
        self.events = record_events(self.network)
        self.netdev = Netdev()
        self.network.add_netdev("net0", "stream", self.netdev)
        self.device = Tulip()
        self.nic = self.network.add_nic("nic0", "tulip", self.device, mac=MAC, netdev_id="net0", link=link)
        self.accesses = 0
        self.driver = TulipDriver(self.device, **driver)
        self.nic.report.guest_attached(ShownBy.DEVICE)

    def restore_sometimes(self) -> None:
        self.accesses += 1
        if self.accesses % 23 == 0 and self.accesses < 2000:
            self.restore()

    def restore(self) -> None:
        """Put a new NIC in the place of the one that is there, by its record."""
        old = self.device
        record = old.save()
        old.cleanup()
        new = Tulip()
        Network(FakeScheduler()).add_nic("new", "tulip", new, mac=self.nic.mac)
        new.client, self.nic.endpoint = self.nic, new
        new.restore(decode(TulipRecord, encode(record)), PciHandles(self.driver.irq, self.driver.served))
        assert new.save() == record
        self.device = self.driver.device = new

    def set_link(self, up: bool) -> None:
        self.network.set_link("nic0", up, "test")

    def wire(self, frame: bytes) -> bool:
        """The far end sends a frame."""
        return self.netdev.client.send(0, frame)

    def last_step(self) -> dict[str, object]:
        """The last change of the link, as clients get it."""
        found: dict[str, object] = as_sent(self.network.journal.select("nic0")[-1])
        return found

    def close(self) -> None:
        self.driver.close()
        self.network.close()


@pytest.fixture(params=["lives on", "is restored"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig()
    if request.param == "is restored":
        made.driver.before_access = made.restore_sometimes
    yield made
    made.close()


@pytest.fixture
def running(rig: Rig) -> Rig:
    """The same with the guest's driver started."""
    rig.driver.start()
    return rig

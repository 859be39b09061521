"""An igb with a guest at one end and a netdev that records at the other; time moves only when a test moves it.

Each test with `rig` runs twice: with one NIC, and with a NIC that is saved and restored into a new one repeatedly
between register accesses of the driver.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.events import record_events
from tests.fakes.igb_driver import IgbDriver, Mode
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_e1000.conftest import Netdev

from vnic.net.client import Nic
from vnic.net.network import Network
from vnic.net.records import ShownBy
from vnic.nic.intel import regs
from vnic.nic.intel.igb import Igb
from vnic.nic.intel.igb.record import IgbRecord
from vnic.pci.device import PciHandles
from vnic.record import decode, encode

MAC = bytes.fromhex("525400123456")


class Rig:
    """All parts of a test; `driver` is the guest's."""

    def __init__(self, *, queues: int = 2, mode: Mode = "msix", link: bool = True) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler)
        self.events = record_events(self.network)
        self.netdev = Netdev()
        self.network.add_netdev("net0", "stream", self.netdev)
        self.device = Igb()
        self.nic: Nic = self.network.add_nic("nic0", "igb", self.device, mac=MAC, netdev_id="net0", link=link)
        self.accesses = self.restores = 0
        self.driver = IgbDriver(self.device, queues, mode)
        self.nic.report.guest_attached(ShownBy.DEVICE)

    def run(self) -> None:
        """Probe, bring the interface up, and wait for the link."""
        self.driver.probe()
        self.driver.start()
        self.scheduler.advance(0.5)
        for vector in self.driver.messages():
            self.driver.handle(vector)
        if self.driver.mode == "intx":
            self.driver.handle()

    def restore_sometimes(self, offset: int) -> None:
        """Often, but for the accesses that read the EEPROM's words."""
        self.accesses += offset != regs.EERD
        if self.accesses >= 20 and self.restores < 8:
            self.accesses = 0
            self.restores += 1
            self.restore()

    def restore(self) -> None:
        """Put a new NIC in the place of the one that is there, by its record."""
        old = self.device
        record = old.save()
        old.cleanup()
        new = Igb()
        Network(FakeScheduler()).add_nic("new", "igb", new, mac=self.nic.mac)
        new.client, self.nic.endpoint = self.nic, new
        new.restore(decode(IgbRecord, encode(record)), PciHandles(self.driver.irq, self.driver.served))
        assert new.save() == record
        self.device = self.driver.device = new

    def set_link(self, up: bool) -> None:
        self.network.set_link("nic0", up, "test")

    def wire(self, frame: bytes) -> bool:
        """The far end sends a frame."""
        return self.netdev.client.send(0, frame)

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
    """The same with the guest's driver started, and its link up."""
    rig.run()
    return rig

"""A NIC with a guest at one end and a netdev that records at the other; time moves only when a test moves it.

Each test with `rig` runs twice: with one NIC, and with a NIC that is saved and restored into a new one repeatedly
between register accesses of the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import pytest
from tests.fakes.events import record_events
from tests.fakes.rtl8139_driver import OldDriver, PlusDriver, RtlDriver
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_e1000.conftest import MAC, Netdev

from vnic.net.client import Nic
from vnic.net.network import Network
from vnic.net.records import ShownBy
from vnic.nic.rtl8139 import RTL8139
from vnic.nic.rtl8139 import registers as r
from vnic.nic.rtl8139.record import RTL8139Record
from vnic.pci.device import PciHandles
from vnic.record import decode, encode

D = TypeVar("D", bound=RtlDriver)


class Rig(Generic[D]):
    """All parts of a test; `driver` is the guest's."""

    def __init__(self, driver: Callable[[RTL8139], D], *, link: bool = True) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler)
        self.events = record_events(self.network)
        self.netdev = Netdev()
        self.network.add_netdev("net0", "stream", self.netdev)
        self.device = RTL8139()
        self.nic: Nic = self.network.add_nic(
            "nic0", self.device.name, self.device, mac=MAC, netdev_id="net0", link=link
        )
        self.accesses = self.restores = 0
        self.driver = driver(self.device)
        self.nic.report.guest_attached(ShownBy.DEVICE)

    def restore_sometimes(self, offset: int) -> None:
        """Often, but for the accesses that clock the EEPROM's bits."""
        self.accesses += 1 if offset == r.CR9346 else 20
        if self.accesses >= 100 and self.restores < 60:
            self.accesses = 0
            self.restores += 1
            self.restore()

    def restore(self) -> None:
        """Put a new NIC in the place of the one that is there, by its record."""
        old = self.device
        record = old.save()
        old.cleanup()
        new = RTL8139()
        scheduler = FakeScheduler()
        Network(scheduler).add_nic("new", new.name, new, mac=self.nic.mac)
        new.client, self.nic.endpoint = self.nic, new
        new.restore(decode(RTL8139Record, encode(record)), PciHandles(self.driver.irq, self.driver.served))
        assert new.save() == record
        self.device = self.driver.device = new

    def set_link(self, up: bool) -> None:
        self.network.set_link("nic0", up, "test")

    def wire(self, frame: bytes) -> bool:
        """The far end sends a frame."""
        return self.netdev.client.send(0, frame)

    def turn(self) -> None:
        """What the device does in turns of the loop of its own."""
        self.scheduler.run_soon()

    def close(self) -> None:
        self.driver.close()
        self.network.close()


def rig_of(driver: Callable[[RTL8139], D], param: str) -> Iterator[Rig[D]]:
    made = Rig(driver)
    if param == "is restored":
        made.driver.before_access = made.restore_sometimes
    yield made
    made.close()


WAYS = ["lives on", "is restored"]


@pytest.fixture(params=WAYS)
def plus(request: pytest.FixtureRequest) -> Iterator[Rig[PlusDriver]]:
    """C+ mode, with the guest's driver started."""
    for rig in rig_of(PlusDriver, request.param):
        assert rig.driver.probe() == MAC
        rig.driver.start()
        yield rig


@pytest.fixture(params=WAYS)
def old(request: pytest.FixtureRequest) -> Iterator[Rig[OldDriver]]:
    """C mode, with the guest's driver started."""
    for rig in rig_of(OldDriver, request.param):
        assert rig.driver.probe() == MAC
        rig.driver.start()
        yield rig

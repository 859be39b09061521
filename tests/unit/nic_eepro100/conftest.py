"""A NIC with a guest at one end and a netdev that records at the other.

Each test with `rig` runs twice: with one NIC, and with a NIC that is saved and restored into a new one repeatedly
between register accesses of the driver.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fakes.eepro100_driver import MAC, Eepro100Driver
from tests.fakes.events import record_events
from tests.fakes.scheduler import FakeScheduler
from tests.unit.nic_e1000.conftest import Netdev

from vnic.net.client import Nic
from vnic.net.network import Network
from vnic.net.records import ShownBy
from vnic.nic.eepro100 import MODELS, Eepro100
from vnic.nic.eepro100.record import Eepro100Record
from vnic.pci.device import PciHandles
from vnic.record import decode, encode


class Rig:
    """All parts of a test; `driver` is the guest's."""

    def __init__(self, model: str = "i82559c", *, link: bool = True) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler)
        self.events = record_events(self.network)
        self.netdev = Netdev()
        self.network.add_netdev("net0", "stream", self.netdev)
        self.device = Eepro100(MODELS[model])
        self.nic: Nic = self.network.add_nic(
            "nic0", self.device.name, self.device, mac=MAC, netdev_id="net0", link=link
        )
        self.accesses = 0
        self.driver = Eepro100Driver(self.device)
        self.nic.report.guest_attached(ShownBy.DEVICE)

    def restore_sometimes(self) -> None:
        self.accesses += 1
        if self.accesses % 7 == 0 and self.accesses < 700:
            self.restore()

    def restore(self) -> None:
        """Put a new NIC in the place of the one that is there, by its record."""
        old = self.device
        record = old.save()
        old.cleanup()
        new = Eepro100(old.model)
        Network(FakeScheduler()).add_nic("new", new.name, new, mac=MAC)
        new.client, self.nic.endpoint = self.nic, new
        new.restore(decode(Eepro100Record, encode(record)), PciHandles(self.driver.irq, self.driver.served))
        assert new.save() == record
        self.device = self.driver.device = new

    def turn(self) -> None:
        self.scheduler.run_soon()

    def turn_once(self) -> None:
        """What is due now, and not what that schedules for now."""
        self.scheduler.turn()

    def wire(self, frame: bytes) -> None:
        """A frame comes from the wire."""
        self.netdev.client.send(0, frame)

    @property
    def sent(self) -> list[bytes]:
        return self.netdev.frames

    def close(self) -> None:
        self.driver.close()
        self.network.close()


@pytest.fixture(params=[False, True], ids=["once", "restored"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig()
    if request.param:
        rig.driver.before_access = rig.restore_sometimes
    yield rig
    rig.driver.before_access = None
    rig.close()

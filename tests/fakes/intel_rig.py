"""An Intel NIC with a guest at one end and a netdev that records at the other; time moves only when a test moves it."""

from __future__ import annotations

from tests.fakes.e1000_driver import E1000Driver
from tests.fakes.events import record_events
from tests.fakes.scheduler import FakeScheduler

from vnic.net.client import Endpoint, Nic
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.net.records import LinkChange, ShownBy
from vnic.nic.intel import regs
from vnic.nic.intel.chip import IntelNic
from vnic.pci.device import PciHandles
from vnic.record import decode, encode

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


class IntelRig:
    """All parts of a test; `driver` is the guest's."""

    device: IntelNic
    driver: E1000Driver

    def __init__(self, *, link: bool = True) -> None:
        self.scheduler = FakeScheduler()
        self.network = Network(self.scheduler)
        self.events = record_events(self.network)
        self.netdev = Netdev()
        self.network.add_netdev("net0", "stream", self.netdev)
        self.device = self.make()
        self.nic: Nic = self.network.add_nic(
            "nic0", self.device.name, self.device, mac=MAC, netdev_id="net0", link=link
        )
        self.accesses = self.restores = 0
        self.driver = self.driver_type(self.device)
        self.nic.report.guest_attached(ShownBy.DEVICE)

    driver_type: type[E1000Driver] = E1000Driver

    def make(self) -> IntelNic:
        """A new device of the same kind."""
        raise NotImplementedError

    def restore_sometimes(self, offset: int) -> None:
        """Often, but for the thousands of accesses that clock the EEPROM's bits."""
        self.accesses += 1 if offset == regs.EECD else 300
        if self.accesses >= 1000 and self.restores < 60:
            self.accesses = 0
            self.restores += 1
            self.restore()

    def restore(self) -> None:
        """Put a new NIC in the place of the one that is there, by its record."""
        old = self.device
        record = old.save()
        old.cleanup()
        new = self.make()
        Network(FakeScheduler()).add_nic("new", old.name, new, mac=self.nic.mac)
        new.client, self.nic.endpoint = self.nic, new
        new.restore(decode(old.record, encode(record)), PciHandles(self.driver.irq, self.driver.served))
        assert new.save() == record
        self.device = self.driver.device = new

    @property
    def change(self) -> LinkChange:
        """The last change of the NIC's link."""
        found = self.nic.last_change
        assert found is not None
        return found

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

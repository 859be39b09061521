"""A Tulip in the middle of its work."""

from __future__ import annotations

from contextlib import ExitStack

from tests.fakes.irq import FakeIrq
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip
from tests.fakes.tulip_driver import FS, TulipDriver

from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.tulip import Tulip
from vnic.nic.tulip.record import TulipRecord
from vnic.pci.device import PciHandles

MAC = bytes.fromhex("525400123456")


def see_tulip(nic: Tulip) -> object:
    """Every register, as it is stored, and config space."""
    return list(nic.csr), list(nic.link.phy), nic.config.read(0, 256), nic.link_shown(), nic.info_text(0)


@trip("tulip")
def tulip(stack: ExitStack) -> Trip:
    """A frame was received, one sent, a third is not whole; an interrupt is asserted; the MII's clock is half-way."""

    def make(stack: ExitStack) -> Tulip:
        network = Network(FakeScheduler())
        nic = Tulip()
        network.add_netdev("net0", "stream", Endpoint())
        network.add_nic("nic0", "tulip", nic, mac=MAC, netdev_id="net0")
        stack.callback(network.close)
        return nic

    nic = make(stack)
    driver = TulipDriver(nic)
    stack.callback(driver.close)
    driver.start(kind=1 << 28)
    nic.receive(0, bytes(100))
    driver.send(bytes(60), 2)
    driver.piece(bytes(60), FS)
    driver.write(1, 0)
    for value in (0x20000, 0x30000, 0, 0x10000, 0x20000, 0x4801, 0x4805, 0x4807):
        driver.write(9, value)

    def restore(new: Tulip, record: TulipRecord) -> None:
        new.restore(record, PciHandles(FakeIrq(), driver.served))

    return Trip(nic, make, restore, see_tulip)

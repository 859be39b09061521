"""A Pcnet in the middle of its work."""

from __future__ import annotations

from contextlib import ExitStack

from tests.fakes.irq import FakeIrq
from tests.fakes.pcnet_driver import ENP, OWN, STP, PcnetDriver
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip

from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.pcnet import Pcnet
from vnic.nic.pcnet.record import PcnetRecord
from vnic.pci.device import PciHandles

MAC = bytes.fromhex("525400123456")


def see_pcnet(nic: Pcnet) -> object:
    """Every register, as it is stored, and what the guest reads of its address PROM and config space."""
    return (
        nic.registers.cells.tolist(),
        nic.registers.status(),
        nic.window_read(0, 0, 16),
        nic.config.read(0, 256),
        nic.link_shown(),
        nic.info_text(0),
    )


@trip("pcnet")
def pcnet(stack: ExitStack) -> Trip:
    """A frame was received and one sent, a third waits for a demand, an interrupt is asserted, the PROM is written."""

    def make(stack: ExitStack) -> Pcnet:
        network = Network(FakeScheduler())
        nic = Pcnet()
        network.add_netdev("net0", "stream", Endpoint())
        network.add_nic("nic0", "pcnet", nic, mac=MAC, netdev_id="net0")
        stack.callback(network.close)
        return nic

    nic = make(stack)
    driver = PcnetDriver(nic)
    stack.callback(driver.close)
    driver.start(0x8000)
    nic.receive(0, bytes(100))
    driver.send(bytes(60), 2)
    driver.piece(bytes(60), OWN | STP | ENP)
    driver.write_bcr(2, 0x0102)
    nic.window_write(0, 9, b"\x12")

    def restore(new: Pcnet, record: PcnetRecord) -> None:
        new.restore(record, PciHandles(FakeIrq(), driver.served))

    return Trip(nic, make, restore, see_pcnet)

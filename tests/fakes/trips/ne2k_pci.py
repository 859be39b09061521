"""The NE2000 on PCI in the middle of its work."""

from __future__ import annotations

from contextlib import ExitStack

from tests.fakes.irq import FakeIrq
from tests.fakes.ne2k_driver import START, TX_PAGE, Ne2kDriver
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip

from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.ne2k_pci import Ne2kPci
from vnic.nic.ne2k_pci import registers as r
from vnic.nic.ne2k_pci.record import Ne2kPciRecord
from vnic.pci.device import PciHandles

MAC = bytes.fromhex("525400123456")


@trip("ne2k_pci")
def ne2k_pci(stack: ExitStack) -> Trip:
    """A frame is in the ring, half of another was written by the data port, and one is to be sent."""

    def make(stack: ExitStack) -> Ne2kPci:
        network = Network(FakeScheduler())
        nic = Ne2kPci()
        network.add_netdev("net0", "stream", Endpoint())
        network.add_nic("nic0", nic.name, nic, mac=MAC, netdev_id="net0")
        stack.callback(network.close)
        return nic

    nic = make(stack)
    driver = Ne2kDriver(nic)
    stack.callback(driver.close)
    driver.start(MAC)
    nic.receive(0, MAC + bytes(range(100)))
    driver.send(MAC + bytes(90))
    driver.write(r.RBCR0, 64)
    driver.write(r.RSAR1, TX_PAGE + 6)
    driver.write(r.COMMAND, START | r.REMOTE_WRITE | r.TRANSMIT)
    driver.write(r.DATA_PORT, 0x12345678, 4)

    def see(each: Ne2kPci) -> object:
        return (
            [each.region_read(0, at, 1) for at in range(0x10)],
            each._memory_of_card.data,
            each.info_text(0),
        )

    def restore(new: Ne2kPci, record: Ne2kPciRecord) -> None:
        new.restore(record, PciHandles(FakeIrq(), driver.memory))

    return Trip(nic, make, restore, see)

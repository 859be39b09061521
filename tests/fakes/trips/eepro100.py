"""The 8255x in the middle of its work."""

from __future__ import annotations

from contextlib import ExitStack

from tests.fakes.eepro100_driver import MAC, MULTICAST, Eepro100Driver
from tests.fakes.irq import FakeIrq
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip

from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.eepro100 import MODELS, Eepro100
from vnic.nic.eepro100 import registers as r
from vnic.nic.eepro100.record import Eepro100Record
from vnic.pci.device import PciHandles


def make(stack: ExitStack) -> Eepro100:
    network = Network(FakeScheduler())
    nic = Eepro100(MODELS["i82559c"])
    network.add_netdev("net0", "stream", Endpoint())
    network.add_nic("nic0", nic.name, nic, mac=MAC, netdev_id="net0")
    stack.callback(network.close)
    return nic


@trip("eepro100")
def eepro100(stack: ExitStack) -> Trip:
    """Frames were received and sent, an interrupt is asserted, the EEPROM's clock half-way."""
    nic = make(stack)
    driver = Eepro100Driver(nic)
    stack.callback(driver.close)
    driver.start()
    driver.do(MULTICAST, b"\x06\0" + bytes.fromhex("01005e000001"))
    nic.receive(0, MAC + bytes(90))
    driver.send(bytes(100))
    driver.mdi(4, 0x01E1)
    for value in (2, 6, 7, 6, 7):
        driver.write(r.EEPROM, value)

    def restore(new: Eepro100, record: Eepro100Record) -> None:
        new.restore(record, PciHandles(FakeIrq(), driver.served))

    def see(nic: Eepro100) -> object:
        return nic.region_read(0, 0, 64), nic.config.read(0, 256), nic.info_text(0)

    return Trip(nic, make, restore, see)

"""The RTL8139 in both of its modes, in the middle of its work."""

from __future__ import annotations

from contextlib import ExitStack

from tests.fakes.irq import FakeIrq
from tests.fakes.rtl8139_driver import IO, OldDriver, PlusDriver, RtlDriver
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip

from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.rtl8139 import RTL8139
from vnic.nic.rtl8139 import registers as r
from vnic.nic.rtl8139.record import RTL8139Record
from vnic.pci.device import PciHandles

MAC = bytes.fromhex("525400123456")


def make(stack: ExitStack) -> RTL8139:
    network = Network(FakeScheduler())
    nic = RTL8139()
    network.add_netdev("net0", "stream", Endpoint())
    network.add_nic("nic0", nic.name, nic, mac=MAC, netdev_id="net0")
    stack.callback(network.close)
    return nic


def see(nic: RTL8139) -> object:
    """All registers, of which none clears by a read."""
    return nic.region_read(IO, 0, 64), [nic.region_read(IO, at, 1) for at in range(256)], nic.info_text(0)


def trip_of(nic: RTL8139, driver: RtlDriver) -> Trip:
    def restore(new: RTL8139, record: RTL8139Record) -> None:
        new.restore(record, PciHandles(FakeIrq(), driver.served))

    return Trip(nic, make, restore, see)


@trip("rtl8139")
def plus(stack: ExitStack) -> Trip:
    """In C+ mode: frames were received and sent, an interrupt is asserted, the EEPROM's clock half-way."""
    nic = make(stack)
    driver = PlusDriver(nic)
    stack.callback(driver.close)
    driver.start()
    nic.receive(0, MAC + bytes(90))
    driver.send(bytes(100))
    nic.client.network.scheduler.run_soon()  # type: ignore[attr-defined]
    for value in (0x80, 0x88, 0x8A, 0x8E, 0x8A, 0x8E):
        driver.write(r.CR9346, value)
    driver.write(r.TIMERINT, 12345)
    driver.write(r.ETTHR, 6)
    driver.write(r.BMCR, 0x0200)
    return trip_of(nic, driver)


@trip("rtl8139 in C mode")
def old(stack: ExitStack) -> Trip:
    """Two frames in the buffer, one of which the driver has taken; two descriptors wait for a turn of the loop."""
    nic = make(stack)
    driver = OldDriver(nic, 1)
    stack.callback(driver.close)
    driver.start()
    nic.receive(0, MAC + bytes(90))
    driver.received()
    nic.receive(0, MAC + bytes(190))
    for _ in range(2):
        driver.send(bytes(100))
    return trip_of(nic, driver)

"""The igb in the middle of its work."""

from __future__ import annotations

from contextlib import ExitStack

from tests.fakes.igb_driver import IgbDriver
from tests.fakes.irq import FakeIrq
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip

from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.intel import regs
from vnic.nic.intel.igb import Igb
from vnic.nic.intel.igb.record import IgbRecord
from vnic.pci.device import PciHandles

MAC = bytes.fromhex("525400123456")


@trip("igb")
def igb(stack: ExitStack) -> Trip:
    """A context is set, half a frame is collected, a vector is masked, a negotiation under way."""

    def make(stack: ExitStack) -> Igb:
        network = Network(FakeScheduler())
        nic = Igb()
        network.add_netdev("net0", "stream", Endpoint())
        network.add_nic("nic0", nic.name, nic, mac=MAC, netdev_id="net0")
        stack.callback(network.close)
        return nic

    nic = make(stack)
    driver = IgbDriver(nic)
    stack.callback(driver.close)
    driver.probe()
    driver.start()
    nic.interrupts.set(regs.ICR_LSC)
    driver.put_context(1, tag=5, mss=1000, index=1)
    driver.put_frame(bytes(100), 1, pieces=2, command=0)
    driver.renegotiate()

    def restore(new: Igb, record: IgbRecord) -> None:
        new.restore(record, PciHandles(FakeIrq(), driver.served))

    def see(nic: Igb) -> object:
        clearing = {regs.ICR, 0x1580, 0x5B50, *range(0x4000, 0x4100, 4)}
        offsets = (
            *range(0, 0x60, 4),
            *range(0xC0, 0x430, 4),
            *range(0x1500, 0x1800, 4),
            *range(0x5000, 0x5D00, 4),
        )
        queues = (*range(0xC000, 0xC400, 4), *range(0xE000, 0xE400, 4))
        values = [nic.registers.read(at) for at in (*offsets, *queues) if at not in clearing]
        return values, nic.config.read(0, 512), nic.info_text(0)

    return Trip(nic, make, restore, see)

"""The part of vmxnet3: a NIC in the middle of its rings, with frames that wait at both ends."""

from __future__ import annotations

from contextlib import ExitStack

from tests.fakes.irq import FakeIrq
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip
from tests.fakes.vmxnet3_driver import Vmxnet3Driver

from vnic.net.client import Endpoint
from vnic.net.network import Network
from vnic.nic.vmxnet3 import Vmxnet3
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.device import Vmxnet3Record
from vnic.pci.device import PciHandles

MAC = bytes.fromhex("525400123456")


class Full(Endpoint):
    """A peer that takes nothing now."""

    def receive(self, queue: int, frame: object, offload: bytes = b"") -> bool:
        return False


def see(nic: Vmxnet3) -> object:
    """Every register whose read has no effect."""
    registers = [nic.window_read(r.PT_BAR, 8 * index, 4) for index in range(r.MAX_INTERRUPTS)]
    registers += [nic.window_read(r.VD_BAR, at, 4) for at in (r.VRRS, r.UVRS, r.CMD, r.MACL, r.MACH)]
    return registers, nic.config.read(0, nic.config.size), nic.info_text(0), nic.link_shown()


@trip("vmxnet3")
def vmxnet3(stack: ExitStack) -> Trip:
    """An event is not acknowledged, its interrupt masked, a frame waits at the peer, and its own address is new."""

    def make(stack: ExitStack) -> Vmxnet3:
        network = Network(FakeScheduler())
        nic = Vmxnet3()
        network.add_netdev("net0", "stream", Full())
        network.add_nic("nic0", nic.name, nic, mac=MAC, netdev_id="net0")
        stack.callback(network.close)
        return nic

    nic = make(stack)
    driver = Vmxnet3Driver(nic, queues=2)
    stack.callback(driver.close)
    driver.probe()
    driver.start()
    driver.set_groups([b"\x01\x00\x5e\x00\x00\x01"])
    driver.set_vlans({0, 7})
    driver.write(r.VD_BAR, r.MACL, 0x02000000)
    driver.write(r.VD_BAR, r.MACH, 0x0102)
    nic.receive(0, b"\xff" * 3000)
    driver.send(MAC + bytes(100), queue=1)
    driver.send(MAC + bytes(100), queue=1)
    nic.link_status_changed()

    def restore(new: Vmxnet3, record: Vmxnet3Record) -> None:
        new.restore(record, PciHandles(FakeIrq(), driver.served))

    return Trip(nic, make, restore, see)

"""The part of PCI: NICs in the middle of their work, a virtio function, a vfio-user connection with all it holds."""

from __future__ import annotations

import os
from contextlib import ExitStack

from tests.fakes.e1000_driver import TX_BUFFERS, E1000Driver
from tests.fakes.e1000e_driver import E1000eDriver
from tests.fakes.irq import FakeIrq
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip
from tests.fakes.vfio_user_device import FakeDevice, memfd, message, serving
from tests.fakes.virtio_device import FakeVirtioDevice

from vnic.attach.vfio_user.irq import EventfdIrqs
from vnic.attach.vfio_user.irq_record import EventfdIrqsRecord
from vnic.descriptors import close_fds
from vnic.memory.guest import GuestMemory, MappedRegion, Region
from vnic.memory.map_record import MemoryMapRecord, restore_map, save_map
from vnic.memory.shadow import ShadowRegion
from vnic.net.client import Endpoint
from vnic.net.clock import Timer
from vnic.net.network import Network
from vnic.nic.intel import regs
from vnic.nic.intel.chip import IntelNic
from vnic.nic.intel.e1000 import E1000
from vnic.nic.intel.e1000.record import E1000Record
from vnic.nic.intel.e1000e import E1000e
from vnic.nic.intel.e1000e import interrupts as e1000e_interrupts
from vnic.nic.intel.e1000e import registers as e1000e_registers
from vnic.nic.intel.e1000e.record import E1000eRecord
from vnic.pci.device import PciHandles
from vnic.protocol.frames import (
    FrameAssembler,
    FrameAssemblerRecord,
    MessageQueue,
    MessageQueueRecord,
)
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import SetIrqs
from vnic.protocol.vfio_user.server import Server
from vnic.protocol.vfio_user.server_record import ServerRecord
from vnic.virtio.pci import layout
from vnic.virtio.pci.transport import VirtioPci

MAC = bytes.fromhex("525400123456")


def see_e1000(nic: IntelNic) -> object:
    """Every register whose read has no effect."""
    clearing = {regs.ICR, *range(0x4000, 0x4100, 4)}
    offsets = (
        *range(0, 0x60, 4),
        *range(0xC0, 0x430, 4),
        *range(0x2800, 0x3900, 4),
        *range(0x5000, 0x5900, 4),
    )
    return (
        [nic.registers.read(at) for at in offsets if at not in clearing],
        nic.config.read(0, 256),
        nic.info_text(0),
    )


@trip("e1000")
def e1000(stack: ExitStack) -> Trip:
    """Half a frame is collected, a negotiation is under way, an interrupt is asserted, the EEPROM's clock half-way."""

    def make(stack: ExitStack) -> E1000:
        network = Network(FakeScheduler())
        nic = E1000()
        network.add_netdev("net0", "stream", Endpoint())
        network.add_nic("nic0", nic.model.name, nic, mac=MAC, netdev_id="net0")
        stack.callback(network.close)
        return nic

    nic = make(stack)
    driver = E1000Driver(nic)
    stack.callback(driver.close)
    driver.start()
    driver.write(regs.RCTL, 1 << 1 | 1 << 3 | 1 << 15)
    nic.receive(0, bytes(range(100)))
    driver.context(l3=14, l4=34, at=50, mss=1000, header=54, tse=True)
    driver.descriptor(TX_BUFFERS, 100, 0x20, 1)
    driver.kick()
    driver.write(regs.EECD, 2)
    for bit in (4, 4, 0, 4):
        driver.write(regs.EECD, 2 | bit)
        driver.write(regs.EECD, 3 | bit)
    driver.renegotiate()

    def restore(new: E1000, record: E1000Record) -> None:
        new.restore(record, PciHandles(FakeIrq(), driver.served))

    return Trip(nic, make, restore, see_e1000)


@trip("e1000e")
def e1000e(stack: ExitStack) -> Trip:
    """Both queues are in work, a vector was sent, another is pending, the clock runs."""

    def make(stack: ExitStack) -> E1000e:
        network = Network(FakeScheduler())
        nic = E1000e()
        network.add_netdev("net0", "stream", Endpoint())
        network.add_nic("nic0", nic.name, nic, mac=MAC, netdev_id="net0")
        stack.callback(network.close)
        return nic

    nic = make(stack)
    driver = E1000eDriver(nic)
    stack.callback(driver.close)
    driver.start(1 << 1 | 1 << 3 | 1 << 15)
    nic.receive(0, bytes(range(100)))
    nic.receive(0, bytes(range(100)))
    driver.write(regs.IMC, e1000e_interrupts.ICR_OTHER)
    driver.write(regs.ICS, regs.ICR_LSC)
    driver.context(l3=14, l4=34, at=50, mss=1000, header=54, tse=True)
    driver.descriptor(TX_BUFFERS, 100, 0x20, 1)
    driver.kick()
    driver.phy_write(22, 2)
    driver.phy_write(16, 0x1234)
    driver.write(e1000e_registers.TIMADJL, 7)
    driver.write(e1000e_registers.TIMADJH, 0xFFFFFFFF)
    driver.renegotiate()

    def restore(new: E1000e, record: E1000eRecord) -> None:
        new.restore(record, PciHandles(FakeIrq(), driver.served))

    return Trip(nic, make, restore, see_e1000)


@trip("virtio function")
def virtio_function(stack: ExitStack) -> Trip:
    pci = VirtioPci(FakeVirtioDevice())
    memory = GuestMemory()
    pci.plug(FakeIrq(), memory)
    stack.callback(pci.unplug, lambda: None)
    pci.config_write(4, b"\x06")
    for name, value in (("device_feature_select", 1), ("queue_select", 2), ("config_msix_vector", 0)):
        at, size = layout.PLACE[name]
        pci.window_write(4, at, value.to_bytes(size, "little"))
    pci.window_write(1, 16, b"\x00\x10\xe0\xfe")
    pci.config_interrupt()

    def see(pci: VirtioPci) -> object:
        return pci.config.read(0, 256), pci.window_read(4, 8, 52), pci.window_read(1, 0, 64), pci.intx

    return Trip(
        pci,
        lambda stack: VirtioPci(FakeVirtioDevice()),
        lambda new, record: new.restore(record, PciHandles(FakeIrq(), memory)),
        see,
    )


@trip("vfio-user server")
def vfio_user_server(stack: ExitStack) -> Trip:
    """One of three writes is carried out, and a request waits for its answer."""
    server, _ = serving()
    server.dma_read(0x1000, 64, lambda data: None)
    writes = b"".join(m.WRITE_MULTI_ONE.pack(16 * at, 0, 4, bytes(8)) for at in range(3))
    steps = server.steps(message(m.REGION_WRITE_MULTI, m.WRITE_MULTI_COUNT.pack(3) + writes))
    assert next(steps) is None

    def restore(new: Server, record: ServerRecord) -> None:
        new.restore(record)

    return Trip(
        server, lambda stack: Server(FakeDevice()), restore, lambda each: (each.state, each.capabilities)
    )


@trip("half-read message")
def half_read(stack: ExitStack) -> Trip:
    fd = memfd()
    frames = m.assembler()
    stack.callback(frames.close)
    frames.feed(m.HEADER.pack(1, m.DMA_MAP, 48, 0, 0) + bytes(8), [fd])

    def make(stack: ExitStack) -> FrameAssembler:
        made = m.assembler()
        stack.callback(made.close)
        return made

    def restore(new: FrameAssembler, record: FrameAssemblerRecord) -> None:
        fds = [os.dup(fd)]
        try:
            new.restore(record, fds)
        except ValueError:
            close_fds(fds)
            raise

    return Trip(frames, make, restore, lambda each: (each.wanted, each.pending, each.descriptors))


@trip("messages that wait")
def waiting_messages(stack: ExitStack) -> Trip:
    """Of a vfio-user VM: two are whole, one with a descriptor, and half of a third is here, with its own."""
    fds = [memfd(), memfd()]
    queue = MessageQueue(m.assembler())
    stack.callback(queue.close)
    queue.feed(m.encode(1, m.DEVICE_RESET))
    queue.feed(m.HEADER.pack(2, m.DMA_MAP, 48, 0, 0) + bytes(32), fds[:1])
    queue.feed(m.HEADER.pack(3, m.DMA_MAP, 48, 0, 0) + bytes(8), fds[1:])

    def make(stack: ExitStack) -> MessageQueue:
        made = MessageQueue(m.assembler())
        stack.callback(made.close)
        return made

    def restore(new: MessageQueue, record: MessageQueueRecord) -> None:
        dups = [[os.dup(fd) for fd in each] for each in queue.fds]
        try:
            new.restore(record, dups)
        except ValueError:
            for each in dups:
                close_fds(each)
            raise

    return Trip(queue, make, restore, lambda each: (len(each), each.wanted, each.pending, each.descriptors))


class NoWatcher:
    """No descriptor is ever readable."""

    def add_reader(self, fd: int, callback: object, /) -> None: ...

    def remove_reader(self, fd: int, /) -> None: ...

    def call_later(self, delay: float, callback: object, /) -> Timer:
        raise AssertionError("nothing is readable")


class Lines:
    """EventfdIrqs with the descriptors left out of its record."""

    def __init__(self) -> None:
        self.irqs = EventfdIrqs(NoWatcher(), intx=True, msi=1, msix=4)

    def save(self) -> EventfdIrqsRecord:
        return self.irqs.save()[0]


@trip("interrupt bindings")
def interrupts(stack: ExitStack) -> Trip:
    def make(stack: ExitStack) -> Lines:
        lines = Lines()
        stack.callback(lines.irqs.close)
        return lines

    lines = make(stack)
    for index, action, count in (
        (m.IRQ_INTX, m.IRQ_ACTION_TRIGGER, 1),
        (m.IRQ_INTX, m.IRQ_ACTION_UNMASK, 1),
        (m.IRQ_MSIX, m.IRQ_ACTION_TRIGGER, 3),
    ):
        fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        lines.irqs.set(SetIrqs(index, 0, count, action, m.IRQ_DATA_EVENTFD, b""), fds)
    lines.irqs.set_intx(True)
    lines.irqs.msix_notify(3)
    bound = lines.irqs.save()[1]

    def restore(new: Lines, record: EventfdIrqsRecord) -> None:
        fds = [os.dup(fd) for fd in bound]
        try:
            new.irqs.restore(record, fds)
        except ValueError:
            close_fds(fds)
            raise

    return Trip(lines, make, restore, lambda each: (each.irqs.msix_pending(), each.irqs.descriptors))


class Mapped:
    """A guest's memory, as a unit."""

    def __init__(self) -> None:
        self.memory = GuestMemory()

    def save(self) -> MemoryMapRecord:
        return save_map(self.memory)[0]


@trip("memory map")
def memory_map(stack: ExitStack) -> Trip:
    def make(stack: ExitStack) -> Mapped:
        mapped = Mapped()
        stack.callback(mapped.memory.close)
        return mapped

    mapped = make(stack)
    fd = memfd(8192)
    stack.callback(os.close, fd)
    mapped.memory.add(MappedRegion(0x1000, 4096, fd, 4096, writable=False))
    mapped.memory.add(ShadowRegion(0x10000, 4096, writable=True))
    mapped.memory.add(Region(0x20000, 4096))

    def see(each: Mapped) -> object:
        return [(r.guest_addr, r.size, r.writable, r.mapping is None) for r in each.memory.regions]

    return Trip(mapped, make, lambda new, record: restore_map(new.memory, record, [fd]), see)

"""A VM that shares no memory and means harm: garbage in its rings, and answers that fail, come late or never."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.e1000_driver import E1000Driver
from tests.fakes.vfio_user_device import ask, message
from tests.fakes.virtio_lab import MAC, FarEnd, TurnScheduler, frame
from tests.fuzz.test_vfio_user_fuzz import NoWatcher

from vnic.attach.vfio_user.function import VfioPciPort
from vnic.attach.vfio_user.shadow import IN_FLIGHT, IN_FLIGHT_BYTES, MessageShadow
from vnic.lab.played.driver import DriverRing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import QEMU_VERSION
from vnic.lab.played.virtio_pci_driver import VERSION_1, VirtioPciDriver
from vnic.memory.guest import GuestMemory
from vnic.net.network import Network
from vnic.nic.intel import regs
from vnic.nic.intel.e1000 import E1000
from vnic.nic.virtio_net import VirtioNet
from vnic.pci.device import PciDevice
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.server import Server
from vnic.virtio.features import INDIRECT_DESC
from vnic.virtio.pci.transport import VirtioPci

Step = tuple[str, int, int]


class Machine:
    """Device, port and server in one thread; what the server asks waits in `asked` until a step answers it."""

    def __init__(self, model: VirtioNet | E1000) -> None:
        self.scheduler = TurnScheduler()
        self.network = Network(self.scheduler)
        self.far = FarEnd()
        self.netdev = self.network.add_netdev("net0", "stream", self.far)
        self.network.add_nic("nic0", "nic", model, mac=MAC, netdev_id="net0")
        self.pci: PciDevice = model if isinstance(model, PciDevice) else VirtioPci(model)
        self.ram = FakeGuestMemory(1 << 20)
        self.memory = GuestMemory()
        self.port = VfioPciPort(self.pci, self.memory, NoWatcher(), "nic0", self.shadow)
        self.server = Server(self.port)
        self.asked: list[bytes] = []
        self.rings: list[DriverRing] = []
        ask(self.server, m.VERSION, m.VERSION_NUMBERS.pack(0, 0) + QEMU_VERSION)
        self.map()
        ask(self.server, m.DEVICE_GET_INFO, m.DEVICE_INFO.pack(16, 0, 0, 0))

    def shadow(self, forget: Callable[[], None]) -> MessageShadow:
        return MessageShadow(self.memory, self.server, self.asked.append, forget)

    def map(self) -> None:
        ask(self.server, m.DMA_MAP, m.DMA_MAP_LAYOUT.pack(32, 3, 0, self.ram.guest_addr, self.ram.size))

    def unmap(self) -> None:
        ask(self.server, m.DMA_UNMAP, m.DMA_UNMAP_LAYOUT.pack(24, 0, self.ram.guest_addr, self.ram.size))

    def answer(self, which: int, well: bool) -> None:
        if not self.asked:
            return
        request = self.asked.pop(which % len(self.asked))
        ident, command, *_ = m.HEADER.unpack_from(request)
        address, count = m.DMA_ACCESS.unpack_from(request, m.HEADER.size)
        inside = self.ram.guest_addr <= address <= self.ram.guest_addr + self.ram.size - count
        payload, flags = b"", m.TYPE_REPLY
        if not well or not inside:
            flags |= m.FLAG_ERROR
        elif command == m.DMA_READ:
            payload = m.DMA_ACCESS.pack(address, count) + self.ram.read(address, count)
        else:
            self.ram.write(address, request[m.HEADER.size + m.DMA_ACCESS.size :])
        assert self.server.receive(message(command, payload, flags=flags, ident=ident)) is None

    def step(self, kind: str, first: int, second: int) -> None:
        if kind == "settle":
            while self.asked:
                self.answer(0, True)
                self.scheduler.turn()
        elif kind == "answer":
            for _ in range(first % 8 + 1):
                self.answer(0, True)
        elif kind == "late":
            self.answer(first, True)
        elif kind == "refuse":
            self.answer(first, False)
        elif kind == "turn":
            self.scheduler.turn()
        elif kind == "frame":
            self.netdev.send(0, frame(first, 60 + second % 3000))
        elif kind == "room":
            self.far.room = None if second & 1 else first % 3
            self.netdev.flush(0)
        elif kind == "remap":
            self.unmap()
            self.map()
        elif kind == "reset":
            self.port.reset()

    def check(self) -> None:
        shadow = self.pci.shadow
        assert isinstance(shadow, MessageShadow)
        assert shadow._in_flight <= IN_FLIGHT
        assert shadow._bytes_in_flight < 2 * IN_FLIGHT_BYTES
        assert len(shadow._requests) < 4096

    def close(self) -> None:
        gone: list[bool] = []
        self.port.close(lambda: gone.append(True))
        self.server.close()
        self.memory.close()
        assert gone == [True]
        self.scheduler.run_soon()
        self.network.close()
        for ring in self.rings:
            ring.close()
        self.ram.close()


KINDS = ("settle", "settle", "answer", "answer", "late", "refuse", "turn", "frame", "room", "remap", "reset")
numbers = st.one_of(st.integers(0, 40), st.sampled_from([0xFFFF, 0xFFFFFFFF, 1 << 17, 16384]))


def steps(*kinds: str) -> st.SearchStrategy[list[Step]]:
    step = st.tuples(st.sampled_from((*KINDS, *kinds, *kinds)), numbers, numbers)
    return st.lists(step, max_size=60)


def play(
    model: VirtioNet | E1000, begin: Callable[[Machine], Callable[[Step], None]], run: list[Step]
) -> None:
    machine = Machine(model)
    try:
        step = begin(machine)
        for one in run:
            step(one)
            machine.check()
    finally:
        machine.close()


@given(steps("send", "kick", "chain", "indirect", "descriptor", "start"))
def test_virtio(run: list[Step]) -> None:
    def begin(machine: Machine) -> Callable[[Step], None]:
        driver = VirtioPciDriver(machine.pci)
        rings = machine.rings = [DriverRing(machine.ram, index, 16) for index in range(3)]
        features = VERSION_1 | INDIRECT_DESC
        driver.start(features, rings)

        def step(one: Step) -> None:
            kind, first, second = one
            ring = rings[first % 3]
            if kind == "kick":
                driver.kick(first % 3)
            elif kind == "send" and rings[1].free:
                rings[1].add([(machine.ram.alloc(80), 80)])
                rings[1].publish(kick=False)
                driver.kick(1)
            elif kind in ("chain", "indirect"):
                buffer = machine.ram.alloc(64) if second % 2 else machine.ram.guest_addr
                if ring.free > 2:
                    parts = [(buffer, min(second, 1 << 17))]
                    ring.add(parts if first % 3 else [], parts, indirect=kind == "indirect")
                    ring.publish(kick=False)
            elif kind == "descriptor":
                ring.set_desc(first % 16, machine.ram.guest_addr + second, second, first & 7, second & 31)
            elif kind == "start":
                for each in rings:
                    each.restart()
                driver.status = 0
                driver.enable_bus()
                driver.status = 3
                driver.set_features(features)
                driver.status = 11
                for each in rings:
                    driver.start_ring(each)
                driver.status = 15
            else:
                machine.step(kind, first, second)

        return step

    play(VirtioNet(queue_size=256), begin, run)


@given(steps("send", "register", "descriptor", "tail", "start"))
def test_e1000(run: list[Step]) -> None:
    def begin(machine: Machine) -> Callable[[Step], None]:
        guest = object.__new__(E1000Driver)
        # The fields are wider than E1000: the driver calls only what every PciDevice has.
        guest.device, guest.memory = machine.pci, machine.ram  # type: ignore[assignment]
        guest.ring_size, guest.buffer_bytes = 16, 2048
        guest.start()

        def step(one: Step) -> None:
            kind, first, second = one
            if kind == "register":
                name = (
                    regs.TDH,
                    regs.RDH,
                    regs.TDLEN,
                    regs.RDLEN,
                    regs.RCTL,
                    regs.TCTL,
                    regs.CTRL,
                    regs.TDBAL,
                )
                guest.write(name[first % len(name)], second)
            elif kind == "descriptor":
                guest.descriptor(machine.ram.guest_addr + second, second & 0xFFFFF, first & 0xFF, second & 1)
            elif kind == "send":
                guest.send(frame(first))
            elif kind == "tail":
                guest.write((regs.TDT, regs.RDT)[first & 1], second % 20)
            elif kind == "start":
                guest.start()
            else:
                machine.step(kind, first, second)

        return step

    play(E1000(autonegotiation=False), begin, run)

"""A NIC on a vfio-user socket, and a fake VM there that does not share its memory: every byte goes by messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from tests.fakes.e1000_driver import MEMORY_BYTES, E1000Driver
from tests.fakes.loops import no_fd_leak
from tests.fakes.pcnet_driver import IDON, PcnetDriver
from tests.fakes.pcnet_driver import MEMORY_BYTES as PCNET_MEMORY_BYTES
from tests.fakes.virtio_lab import MAC, FarEnd

from vnic.attach.vfio_user.attachment import VfioUserAttachment
from vnic.lab.played.closing import Closing
from vnic.lab.played.driver import DriverRing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.lab.played.virtio_pci_driver import VERSION_1, VirtioPciDriver
from vnic.net.network import Network
from vnic.nic.intel.e1000 import E1000
from vnic.nic.pci_nic import PciNic
from vnic.nic.pcnet import Pcnet
from vnic.nic.virtio_net import VirtioNet
from vnic.pci.device import PciDevice
from vnic.protocol.vfio_user import messages as m
from vnic.virtio.pci.transport import VirtioPci

T = TypeVar("T")


class UnsharedBench:
    """The NIC `nic0`, wired to a far end; `in_loop` is for the VM's thread."""

    def __init__(self, path: Path, model: Callable[[], VirtioNet | PciNic]) -> None:
        self.loop = asyncio.get_running_loop()
        self.network = Network(self.loop)
        self.far = FarEnd()
        self.netdev = self.network.add_netdev("net0", "stream", self.far)
        self.model = model()
        self.nic = self.network.add_nic("nic0", "nic", self.model, mac=MAC, netdev_id="net0")
        self.pci: PciDevice = self.model if isinstance(self.model, PciDevice) else VirtioPci(self.model)
        self.attachment = VfioUserAttachment(self.loop, self.pci, self.nic, str(path))
        self.attachment.start()

    def in_loop(self, call: Callable[[], T]) -> T:
        """Run something in the loop."""

        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)

    def receive(self, *frames: bytes) -> None:
        """Frames come in from the far end."""
        self.in_loop(lambda: [self.netdev.send(0, frame) for frame in frames])

    def settle(self, client: VfioUserClient) -> None:
        """For the VM's thread: wait until the NIC has processed all messages and sent all requests to `client`."""
        rounds_without = 0
        while rounds_without < 3:
            before = len(client.requests)
            client.config_read(0, 4)  # answered after all that was sent before
            self.in_loop(lambda: None)
            client.serve_waiting()
            rounds_without = rounds_without + 1 if len(client.requests) == before else 0

    async def close(self) -> None:
        closed = asyncio.Event()
        self.attachment.close(closed.set)
        await asyncio.wait_for(closed.wait(), 60)
        self.network.close()


def with_bench(
    path: Path, model: Callable[[], VirtioNet | PciNic], vm: Callable[[UnsharedBench], None]
) -> None:
    """Run `vm` in a thread beside the loop that serves the NIC; nothing may stay open."""

    async def main() -> None:
        bench = UnsharedBench(path, model)
        try:
            await asyncio.to_thread(vm, bench)
        finally:
            await bench.close()

    with no_fd_leak():
        asyncio.run(main())


class UnsharedVirtio(Closing):
    """A virtio-net driver in such a VM, after its probe: RX ring 0, TX ring 1, control ring 2."""

    def __init__(self, bench: UnsharedBench, *, msix: bool = True, features: int = VERSION_1) -> None:
        self.ram = FakeGuestMemory(8 << 20)
        self.client = client = VfioUserClient(bench.attachment.path)
        client.attach(self.ram, shared=False)
        client.set_eventfds(m.IRQ_MSIX if msix else m.IRQ_INTX, 0, 4 if msix else 1)
        self.driver = VirtioPciDriver(client)
        self.rings = [DriverRing(self.ram, index, 256) for index in range(3)]
        self.driver.start(features, self.rings, msix=msix)

    def close(self) -> None:
        for ring in self.rings:
            ring.close()
        self.client.close()
        self.ram.close()

    def transmit(self, *frames: bytes, kick: bool = True) -> None:
        for frame in frames:
            buffer = self.ram.alloc(12 + len(frame))
            self.ram.write(buffer, bytes(12) + frame)
            self.rings[1].add([(buffer, 12 + len(frame))])
        self.rings[1].publish(kick=False)
        if kick:
            self.driver.kick(1)

    def post(self, count: int, size: int = 1600) -> list[int]:
        """Receive buffers, made known to the device; their addresses."""
        buffers = [self.ram.alloc(size) for _ in range(count)]
        for buffer in buffers:
            self.rings[0].add([], [(buffer, size)])
        self.rings[0].publish(kick=False)
        self.driver.kick(0)
        return buffers


class UnsharedE1000(E1000Driver, Closing):
    """An e1000 driver in such a VM, started, with an INTx line."""

    def __init__(self, bench: UnsharedBench, ring_size: int = 16) -> None:
        self.client = client = VfioUserClient(bench.attachment.path)
        self.device = cast(E1000, client)  # it has the calls of one
        self.memory = FakeGuestMemory(MEMORY_BYTES)
        self.ring_size = ring_size
        self.buffer_bytes = 2048
        self.seen_links = []
        client.attach(self.memory, shared=False)
        client.set_eventfds(m.IRQ_INTX, 0, 1)
        self.start()

    def close(self) -> None:
        self.client.close()
        self.memory.close()


class UnsharedPcnet(PcnetDriver, Closing):
    """A PCnet driver in such a VM, started, with an INTx line."""

    def __init__(self, bench: UnsharedBench, style: int = 2) -> None:
        self.client = client = VfioUserClient(bench.attachment.path)
        self.device = cast(Pcnet, client)  # it has the calls of one
        self.memory = FakeGuestMemory(PCNET_MEMORY_BYTES)
        self.base = self.memory.guest_addr
        self.style, self.wide, self.region = style, False, 0
        self.log_size, self.ring_size, self.buffer_bytes = 4, 16, 1544
        client.attach(self.memory, shared=False)
        client.set_eventfds(m.IRQ_INTX, 0, 1)
        self.start()
        client.serve(lambda: bool(self.csr(0) & IDON))

    def close(self) -> None:
        self.client.close()
        self.memory.close()

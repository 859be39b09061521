"""Tests of NICs in a VM that does not share its memory: a fake VM answers DMA_READ and DMA_WRITE, correctly or not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.e1000_driver import TX_BUFFERS
from tests.fakes.unshared_vm import UnsharedBench, UnsharedE1000, UnsharedVirtio, with_bench
from tests.fakes.virtio_lab import frame

from vnic.attach.attachment import AttachmentState
from vnic.attach.vfio_user import shadow as vfio_shadow
from vnic.lab.played.driver import DriverRing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.lab.played.virtio_pci_driver import VERSION_1, VirtioPciDriver
from vnic.nic.intel import regs
from vnic.nic.intel.e1000 import E1000
from vnic.nic.virtio_net import VirtioNet
from vnic.pci import dma
from vnic.protocol.vfio_user import messages as m
from vnic.virtio import shadow_ring
from vnic.virtio.features import INDIRECT_DESC, RING_RESET

RX, TX = 1, 2
"""MSI-X vectors."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nic0.sock"


def virtio(path: Path, vm: Callable[[UnsharedBench, UnsharedVirtio], None], **more: bool) -> None:
    def run(bench: UnsharedBench) -> None:
        with UnsharedVirtio(bench, **more) as guest:
            vm(bench, guest)

    with_bench(path, VirtioNet, run)


def e1000(path: Path, vm: Callable[[UnsharedBench, UnsharedE1000], None]) -> None:
    def run(bench: UnsharedBench) -> None:
        with UnsharedE1000(bench) as guest:
            vm(bench, guest)

    with_bench(path, lambda: E1000(autonegotiation=False), run)


# -- virtio-net ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("msix", [True, False])
def test_virtio_sends_and_receives(path: Path, msix: bool, caplog: pytest.LogCaptureFixture) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client = guest.client
        guest.transmit(frame(1), frame(2, 1500))
        client.serve(lambda: guest.rings[1].used_idx == 2)
        client.serve(lambda: client.interrupts(m.IRQ_MSIX if msix else m.IRQ_INTX, TX if msix else 0) == 1)
        assert bench.far.frames == [frame(1), frame(2, 1500)]
        assert guest.driver.isr() == 1
        buffers = guest.post(4)
        bench.settle(client)
        bench.receive(frame(3), frame(4, 1514))
        client.serve(lambda: guest.rings[0].used_idx == 2)
        assert [length for _, length in guest.rings[0].take_used()] == [72, 1526]
        assert guest.ram.read(buffers[0] + 12, 60) == frame(3)
        assert guest.ram.read(buffers[1] + 12, 1514) == frame(4, 1514)
        assert guest.rings[0].used_flags == 0  # the driver has to kick
        if msix:
            client.serve(lambda: client.interrupts(m.IRQ_MSIX, RX) == 1)

    with caplog.at_level(logging.INFO):
        virtio(path, vm, msix=msix)
    assert caplog.text.count("does not share its memory") == 1


def test_chains_by_indirect_tables_and_commands(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        ram, client = guest.ram, guest.client
        parts = [ram.alloc(12), ram.alloc(100), ram.alloc(200)]
        ram.write(parts[1], frame(7, 300)[:100])
        ram.write(parts[2], frame(7, 300)[100:])
        guest.rings[1].add([(parts[0], 12), (parts[1], 100), (parts[2], 200)], indirect=True)
        guest.transmit()
        client.serve(lambda: guest.rings[1].used_idx == 1)
        assert bench.far.frames == [frame(7, 300)]
        command, answer = ram.alloc(3), ram.alloc(1)
        ram.write(command, b"\0\0\0")  # CTRL_RX, PROMISC, off
        ram.write(answer, b"?")
        guest.rings[2].add([(command, 3)], [(answer, 1)])
        guest.rings[2].publish(kick=False)
        guest.driver.kick(2)
        client.serve(lambda: guest.rings[2].used_idx == 1)
        assert ram.read(answer, 1) == b"\0"

    def run(bench: UnsharedBench) -> None:
        assert isinstance(bench.model, VirtioNet)
        features = bench.model.host_features | VERSION_1 | INDIRECT_DESC
        with UnsharedVirtio(bench, features=features) as guest:
            vm(bench, guest)

    with_bench(path, VirtioNet, run)


def test_interrupt_follows_acknowledged_writes(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client = guest.client
        guest.post(2)
        bench.settle(client)
        client.hold()
        bench.receive(frame(1))
        bench.settle(client)
        # Data, then the element, then the index.
        used = guest.rings[0].used
        assert [address for _, address, _ in client.requests[-2:]] == [used + 4, used + 2]
        assert guest.driver.status == 15  # register accesses are answered meanwhile
        assert client.interrupts(m.IRQ_MSIX, RX) == 0
        client.release()
        client.serve(lambda: client.interrupts(m.IRQ_MSIX, RX) == 1)
        assert len(guest.rings[0].take_used()) == 1

    virtio(path, vm)


def test_ring_reset_ends_after_pending_writes(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client, driver, ring = guest.client, guest.driver, guest.rings[0]
        guest.post(2)
        bench.settle(client)
        client.hold()
        bench.receive(frame(1))
        bench.settle(client)
        assert not driver.reset_ring(0)
        client.release()
        client.serve(lambda: driver.get(58, 2) == 0)
        assert len(ring.take_used()) == 1
        assert driver.get(28, 2) == 0
        ring.restart()
        driver.start_ring(ring, RX)
        guest.post(1)
        bench.settle(client)
        bench.receive(frame(2))
        client.serve(lambda: ring.used_idx == 1)
        guest.transmit(frame(3))  # the other ring still works
        client.serve(lambda: guest.rings[1].used_idx == 1)

    def run(bench: UnsharedBench) -> None:
        with UnsharedVirtio(bench, features=VERSION_1 | RING_RESET) as guest:
            vm(bench, guest)

    with_bench(path, VirtioNet, run)


def test_device_reset_drops_requests_and_ends_after_pending_writes(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client, driver = guest.client, guest.driver
        guest.post(2)
        bench.settle(client)
        client.hold()
        bench.receive(frame(1))
        guest.transmit(frame(2))
        bench.settle(client)
        driver.status = 0
        driver.status = 0
        assert driver.status == 15
        client.release()
        bench.settle(client)
        assert driver.status == 0
        assert client.interrupts(m.IRQ_MSIX, RX) == 0
        assert bench.far.frames == []
        for ring in guest.rings:
            ring.restart()
        driver.start(VERSION_1, guest.rings, msix=True)
        guest.transmit(frame(3))
        client.serve(lambda: guest.rings[1].used_idx == 1)
        assert bench.far.frames == [frame(3)]

    virtio(path, vm)


def test_bus_mastering_off_during_fetch(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client = guest.client
        client.hold()
        guest.transmit(frame(1))
        bench.settle(client)
        guest.driver.config(4, 2, 0x0402)
        client.refused = {m.DMA_READ}  # as QEMU does in this case
        client.release()
        bench.settle(client)
        assert guest.driver.status == 11

    virtio(path, vm)
    assert "broken" not in caplog.text


def test_buffers_before_driver_ok_need_no_kick(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        guest.driver.status = 0
        guest.client.serve(lambda: guest.driver.status == 0)
        for ring in guest.rings:
            ring.restart()
        guest.transmit(frame(1), kick=False)
        guest.driver.start(VERSION_1, guest.rings, msix=True)
        guest.client.serve(lambda: guest.rings[1].used_idx == 1)
        assert bench.far.frames == [frame(1)]

    virtio(path, vm)


def test_rings_survive_unmap_and_map(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client = guest.client
        guest.post(8)
        guest.transmit(frame(1))
        client.serve(lambda: guest.rings[1].used_idx == 1)
        bench.receive(frame(10))
        client.hold()
        guest.transmit(frame(2))
        bench.settle(client)
        client.unmap(guest.ram)
        client.map(guest.ram, shared=False)
        client.release()
        client.serve(lambda: guest.rings[1].used_idx == 2)
        bench.receive(frame(11))
        client.serve(lambda: guest.rings[0].used_idx == 2)
        assert bench.far.frames == [frame(1), frame(2)]

    virtio(path, vm)


@pytest.mark.parametrize("bytes_a_ring", [1 << 16, 1 << 20])
def test_emptied_shadow_copy_is_fetched_again(
    path: Path, bytes_a_ring: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No frame is lost, however often that happens."""
    monkeypatch.setattr(vfio_shadow, "SHADOW_BYTES", bytes_a_ring)

    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client, (rx, tx, _) = guest.client, guest.rings
        buffers = guest.post(64)
        for number in range(100):
            guest.transmit(frame(number, 1000))
            bench.receive(frame(number, 900))
            client.serve(lambda: tx.used_idx == number + 1 and rx.used_idx == number + 1)  # noqa: B023
            tx.take_used()
            at = number % 64
            assert guest.ram.read(buffers[at] + 12, 900) == frame(number, 900)
            rx.take_used()
            rx.add([], [(buffers[at], 1600)])
            rx.publish(kick=False)
            guest.driver.kick(0)
        assert bench.far.frames == [frame(number, 1000) for number in range(100)]

    virtio(path, vm)


def test_long_transfer_takes_several_rounds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_ring, "ROUND_BYTES", 8192)

    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        guest.transmit(*(frame(number, 1500) for number in range(60)))
        guest.client.serve(lambda: guest.rings[1].used_idx == 60)
        assert bench.far.frames == [frame(number, 1500) for number in range(60)]
        guest.post(60)
        bench.settle(guest.client)
        bench.receive(*(frame(number, 1500) for number in range(60)))
        guest.client.serve(lambda: guest.rings[0].used_idx == 60)

    virtio(path, vm)


def test_peer_without_room_pauses_ring(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        bench.far.room = 1
        guest.transmit(*map(frame, range(5)))
        guest.client.serve(lambda: guest.rings[1].used_idx == 2)  # one of them waits at the peer
        guest.transmit(frame(5))

        def flush() -> None:
            bench.far.room = None
            bench.netdev.flush(0)

        bench.in_loop(flush)
        guest.client.serve(lambda: guest.rings[1].used_idx == 6)
        assert bench.far.frames == [frame(number) for number in range(6)]

    virtio(path, vm)


# -- e1000 --------------------------------------------------------------------------------------------------------


def test_e1000_sends_and_receives(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedE1000) -> None:
        client = guest.client
        guest.send(frame(1))
        assert guest.read(regs.TDT) == 1  # at once, whatever has been fetched
        client.serve(lambda: guest.tx_done(0))
        assert bench.far.frames == [frame(1)]
        client.serve(lambda: bool(guest.read(regs.ICR) & regs.ICR_TXDW))
        assert client.interrupts(m.IRQ_INTX) >= 1
        for number in range(40):  # several times around both rings
            guest.send(frame(number, 200))
            bench.receive(frame(number, 300))
            got: list[bytes] = []
            while not got or bench.far.frames[-1] != frame(number, 200):
                client.serve_waiting(0.01)
                got += guest.received()
            assert got == [frame(number, 300)]
        assert bench.far.frames[1:] == [frame(number, 200) for number in range(40)]

    e1000(path, vm)


def test_long_e1000_transfer_takes_several_rounds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dma, "ROUND_BYTES", 8192)

    def vm(bench: UnsharedBench, guest: UnsharedE1000) -> None:
        client = guest.client
        guest.memory.write(TX_BUFFERS, frame(1, 1500))
        for _ in range(14):
            guest.descriptor(TX_BUFFERS, 1500, 0x0B)
        guest.kick()
        client.serve(lambda: guest.tx_done(13))
        assert bench.far.frames == [frame(1, 1500)] * 14
        bench.receive(*(frame(number, 1500) for number in range(14)))
        got: list[bytes] = []
        while len(got) < 14:
            client.serve_waiting(0.01)
            got += guest.received()
        assert got == [frame(number, 1500) for number in range(14)]

    e1000(path, vm)


def test_icr_shows_cause_after_its_writes(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedE1000) -> None:
        client = guest.client
        bench.settle(client)
        guest.read(regs.ICR)
        client.interrupts(m.IRQ_INTX)
        client.hold()
        bench.receive(frame(1))
        bench.settle(client)
        assert guest.read(regs.ICR) == 0
        assert client.interrupts(m.IRQ_INTX) == 0
        bench.in_loop(lambda: bench.network.set_link("nic0", False, "test"))
        assert guest.read(regs.ICR) == regs.ICR_LSC  # it announces no write
        client.irq_action(m.IRQ_ACTION_UNMASK, m.IRQ_INTX)
        client.interrupts(m.IRQ_INTX)
        client.release()
        client.serve(lambda: client.interrupts(m.IRQ_INTX) == 1)
        assert guest.read(regs.ICR) & regs.ICR_RXT0
        assert guest.received() == [frame(1)]

    e1000(path, vm)


def test_e1000_works_after_memory_moves_and_new_ring(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedE1000) -> None:
        client = guest.client
        client.hold()
        guest.send(frame(1))
        bench.settle(client)
        client.unmap(guest.memory)
        client.map(guest.memory, shared=False)
        client.release()
        client.serve(lambda: guest.tx_done(0))
        client.hold()
        bench.receive(frame(2))
        guest.send(frame(3))
        bench.settle(client)
        guest.write(regs.CTRL, regs.CTRL_RST)
        client.release()
        bench.settle(client)
        guest.start()
        guest.send(frame(4))
        client.serve(lambda: guest.tx_done(0))
        assert bench.far.frames == [frame(1), frame(4)]
        bench.receive(frame(5))
        client.serve(lambda: guest.received() == [frame(5)])

    e1000(path, vm)


# -- hostile VMs --------------------------------------------------------------------------------------------------


def test_refused_read_breaks_ring(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        guest.client.refused = {m.DMA_READ}
        guest.transmit(frame(1))
        guest.client.serve(lambda: guest.driver.status & 64 != 0)

    virtio(path, vm)
    assert "queue 1 is broken until the guest resets it: the VM does not let its memory at" in caplog.text


def test_refused_write_breaks_ring(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        guest.client.refused = {m.DMA_WRITE}
        guest.transmit(frame(1))
        guest.client.serve(lambda: guest.driver.status & 64 != 0)
        assert guest.client.interrupts(m.IRQ_MSIX, TX) == 0

    virtio(path, vm)
    assert "be written" in caplog.text


def test_refusals_are_an_e1000s_bus_errors(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedE1000) -> None:
        client = guest.client
        bench.settle(client)
        client.refused = {m.DMA_READ}
        guest.send(frame(1))
        client.serve(lambda: bool(client.config_read(7, 1)[0] & 0x20))
        client.refused = {m.DMA_WRITE}
        bench.receive(frame(2))
        bench.settle(client)
        client.refused = set()
        guest.send(frame(3))
        client.serve(lambda: guest.tx_done(1))
        assert bench.far.frames[-1] == frame(3)

    e1000(path, vm)
    assert "TX DMA: the VM does not let" in caplog.text
    assert "write DMA: the VM does not let" in caplog.text


def test_answer_of_wrong_size_disconnects(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client = guest.client
        guest.transmit(frame(1))
        ident, command, _, _, payload = client._message()
        client.sock.sendall(m.encode(ident, command, payload + b"short", flags=m.TYPE_REPLY))
        while not client.at_end():
            pass  # an answer to an earlier request

    virtio(path, vm)
    assert "the VM is cut off: a DMA_READ" in caplog.text


def test_requests_to_silent_vm_are_bounded(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client = guest.client
        bench.settle(client)
        client.requests.clear()
        client.hold()
        guest.post(100)
        guest.transmit(*map(frame, range(100)))
        for _ in range(2000):
            guest.driver.kick(1)
            guest.driver.kick(0)
        bench.receive(*map(frame, range(100)))
        assert guest.driver.status == 15
        bench.settle(client)
        assert len(client.requests) <= 16  # one round a ring
        for _ in range(60):
            guest.driver.status = 0
            assert guest.driver.status == 0  # no write is still pending
            for ring in guest.rings:
                ring.restart()
            guest.driver.start(VERSION_1, guest.rings, msix=True)
            guest.driver.kick(1)
        bench.settle(client)
        assert len(client.requests) <= vfio_shadow.IN_FLIGHT

    virtio(path, vm)


def test_unacknowledged_writes_stop_frames(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vfio_shadow, "OWED_BYTES", 20_000)

    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client = guest.client
        client.hold(m.DMA_WRITE)
        for number in range(100):
            guest.post(2)
            bench.receive(frame(number, 1500), frame(number, 1500))
            client.serve_waiting(0.001)
        written = [count for command, _, count in client.requests if command == m.DMA_WRITE]
        assert sum(written) < 40_000
        client.release()
        client.serve(lambda: guest.rings[0].used_idx == 200)

    virtio(path, vm)


def test_requests_of_moving_e1000_ring_are_bounded(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedE1000) -> None:
        client = guest.client
        bench.settle(client)
        client.hold()
        for number in range(15):
            guest.descriptor(TX_BUFFERS + number, 2000, 0x0B)
        guest.kick()
        for _ in range(1000):
            guest.write(regs.TDH, 0)
        assert guest.read(regs.TDH) == 0
        bench.settle(client)
        assert len(client.requests) <= vfio_shadow.IN_FLIGHT + 64
        shadow = bench.pci.shadow
        assert isinstance(shadow, vfio_shadow.MessageShadow)
        assert len(shadow._requests) < 32
        client.release()
        client.serve(lambda: len(bench.far.frames) == 15)

    e1000(path, vm)


def test_huge_descriptors_are_bounded(path: Path) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        ram, client, tx = guest.ram, guest.client, guest.rings[1]
        tx.add([(ram.guest_addr, 4 << 20)] * 100)  # far too long for a frame
        buffer = ram.alloc(100)
        tx.add([], [(buffer, 100)])
        guest.transmit(frame(2))
        client.serve(lambda: tx.used_idx >= 1 or guest.driver.status & 64 != 0)
        assert sum(count for command, _, count in client.requests if command == m.DMA_READ) < 1 << 16

    virtio(path, vm)


def test_disconnect_with_requests_in_flight(path: Path) -> None:
    def run(bench: UnsharedBench) -> None:
        for _ in range(3):
            with UnsharedVirtio(bench) as guest:
                assert guest.driver.status == 15
                guest.post(8)
                bench.settle(guest.client)
                guest.client.hold()
                bench.receive(frame(1))
                guest.transmit(frame(2))
                bench.settle(guest.client)
            while bench.in_loop(lambda: bench.attachment.state) is not AttachmentState.WAITING:
                pass
            assert bench.pci.shadow is None
        assert bench.far.frames == []

    with_bench(path, VirtioNet, run)


# -- which memory -------------------------------------------------------------------------------------------------

RAM = 1 << 20


@pytest.mark.parametrize(
    ("shared", "unshared", "shadowed"),
    [
        ([], [4 * RAM], True),
        ([4 * RAM], [], False),
        ([4 * RAM], [16 * RAM], False),  # a video card's
        ([4 * RAM], [128 * RAM], True),  # a NUMA node's
    ],
)
def test_sharing_is_decided_by_large_maps(
    path: Path, shared: list[int], unshared: list[int], shadowed: bool
) -> None:
    def run(bench: UnsharedBench) -> None:
        with VfioUserClient(bench.attachment.path) as client:
            client.version()
            at = 0
            for size in shared + unshared:
                with FakeGuestMemory(size, guest_addr=at) as ram:
                    client.map(ram, shared=size in shared)
                at += 1 << 30
            client.rams.clear()
            client.attach_to_mapped()
            assert (bench.pci.shadow is not None) is shadowed

    with_bench(path, VirtioNet, run)


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize(
    ("shared", "unshared", "shadowed"),
    [([], [RAM // 2], True), ([RAM // 4], [RAM // 2], False), ([], [RAM], True), ([], [], None)],
)
def test_undecided_sharing_is_decided_at_bus_mastering(
    path: Path, shared: list[int], unshared: list[int], shadowed: bool | None, asks: bool
) -> None:
    """A small VM, one that never sends DEVICE_GET_INFO, and one behind an IOMMU, which maps its memory later."""

    def run(bench: UnsharedBench) -> None:
        with VfioUserClient(bench.attachment.path) as client:
            client.version()
            if asks:
                client.attach_to_mapped()
            for at, size in enumerate(shared + unshared):
                with FakeGuestMemory(size, guest_addr=at << 30) as ram:
                    client.map(ram, shared=size in shared)
            assert bench.pci.shadow is None
            VirtioPciDriver(client).enable_bus()
            assert (bench.pci.shadow is not None) is bool(shadowed)
            if shadowed is None:
                with FakeGuestMemory(4096, guest_addr=1 << 40) as ram:
                    client.map(ram, shared=False)
                assert bench.pci.shadow is not None

    with_bench(path, VirtioNet, run)


def test_vm_that_shares_a_part_works(path: Path) -> None:
    def run(bench: UnsharedBench) -> None:
        low, high = FakeGuestMemory(4 << 20), FakeGuestMemory(128 << 20, guest_addr=1 << 32)
        with low, high, VfioUserClient(bench.attachment.path) as client:
            client.version()
            client.map(low)
            client.map(high, shared=False)
            client.attach_to_mapped()
            driver = VirtioPciDriver(client)
            rings = [DriverRing(low, index, 64) for index in range(3)]
            driver.start(VERSION_1, rings)
            buffer = high.alloc(72)
            high.write(buffer, bytes(12) + frame(1))
            rings[1].add([(buffer, 72)])
            rings[1].publish(kick=False)
            driver.kick(1)
            client.serve(lambda: rings[1].used_idx == 1)
            assert bench.far.frames == [frame(1)]
            for ring in rings:
                ring.close()

    with_bench(path, VirtioNet, run)


def test_rom_is_not_written(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def vm(bench: UnsharedBench, guest: UnsharedVirtio) -> None:
        client = guest.client
        rom = FakeGuestMemory(4096, guest_addr=0xC0000)
        with rom:
            client.demand(m.DMA_MAP, m.DMA_MAP_LAYOUT.pack(32, 1, 0, rom.guest_addr, rom.size))
            client.rams.append(rom)
            rom.write(rom.guest_addr, bytes(12) + frame(1))
            guest.rings[1].add([(rom.guest_addr, 72)])
            guest.transmit()
            client.serve(lambda: guest.rings[1].used_idx == 1)
            assert bench.far.frames == [frame(1)]
            guest.rings[0].add([], [(rom.guest_addr, 2000)])
            guest.rings[0].publish(kick=False)
            guest.driver.kick(0)
            bench.settle(client)
            bench.receive(frame(2))
            client.serve(lambda: guest.driver.status & 64 != 0)
            client.unmap(rom)

    virtio(path, vm)
    assert "is read-only" in caplog.text

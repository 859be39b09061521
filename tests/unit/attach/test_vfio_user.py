"""Tests of the vfio-user socket with a fake VM: a whole driver over the socket, every kind of disconnect, hostile
VMs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.fakes.loops import no_fd_leak, open_fds
from tests.fakes.virtio_device import FakeVirtioDevice, SlowBackend

from vnic.attach import gate
from vnic.attach.attachment import AttachmentState
from vnic.attach.session import SessionState
from vnic.attach.vfio_user import session as vfio_user
from vnic.attach.vfio_user.attachment import VfioUserAttachment
from vnic.attach.vfio_user.session import PIECE_BYTES
from vnic.lab.played.driver import DriverRing
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.lab.played.virtio_pci_driver import VERSION_1, VirtioPciDriver
from vnic.net.client import Endpoint, Nic
from vnic.net.errors import NetError
from vnic.net.network import Network
from vnic.net.records import HoldKind
from vnic.protocol.vfio_user import messages as m
from vnic.quota import QUOTA
from vnic.virtio.pci.transport import VirtioPci


def make_nic() -> Nic:
    """The NIC of the socket. Its link is down at first, because it has no peer."""
    network = Network(asyncio.get_running_loop())
    return network.add_nic("nic0", "virtio-net-pci", Endpoint(), mac=bytes(6))


class Bench:
    """A served device, and its socket."""

    def __init__(self, path: Path) -> None:
        self.device = FakeVirtioDevice()
        self.pci = VirtioPci(self.device)
        self.nic = make_nic()
        loop = asyncio.get_running_loop()
        self.attachment = VfioUserAttachment(loop, self.pci, self.nic, str(path))
        self.attachment.start()

    def client(self) -> VfioUserClient:
        return VfioUserClient(self.attachment.path)

    async def state(self, wanted: AttachmentState | SessionState) -> None:
        """Wait until the attachment, or its session, is in the state."""
        for _ in range(12_000):
            session = self.attachment.session
            states = (self.attachment.state, None if session is None else session.state)
            if wanted in states:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{states}, not {wanted}")

    async def close(self) -> None:
        closed = asyncio.Event()
        self.attachment.close(closed.set)
        await asyncio.wait_for(closed.wait(), 60)


def run(path: Path, test: Callable[[Bench], Awaitable[None]]) -> None:
    """Run `test` in a loop with a bench that is closed afterwards; no descriptor may stay open."""

    async def main() -> None:
        bench = Bench(path)
        await test(bench)
        await bench.close()

    with no_fd_leak():
        asyncio.run(main())
    assert not path.exists()


def run_vm(path: Path, vm: Callable[[Bench], None]) -> None:
    """Run a VM's side in a thread; its attachment waits for the next VM then."""

    async def test(bench: Bench) -> None:
        await asyncio.to_thread(vm, bench)
        await bench.state(AttachmentState.WAITING)

    run(path, test)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nic0.sock"


def test_driver_runs_over_socket(path: Path) -> None:
    def vm(bench: Bench) -> None:
        with FakeGuestMemory(1 << 20) as ram, bench.client() as client:
            client.attach(ram)
            assert client.regions == [
                (0, 0), (4096, 3), (0, 0), (0, 0), (0x4000, 3), (0, 0), (0, 0), (4096, 3), (0, 0),
            ]  # fmt: skip
            assert client.irqs == [(1, 7), (0, 1), (4, 1), (1, 1), (0, 0)]
            client.set_eventfds(m.IRQ_MSIX, 0, 4)
            assert bench.nic.guest.attached
            driver = VirtioPciDriver(client)
            rings = [DriverRing(ram, index, 64) for index in range(3)]
            driver.start(VERSION_1, rings, msix=True)
            rings[1].add([(ram.alloc(64), 64)])
            rings[1].publish()
            driver.kick(1)
            assert driver.status == 15  # a read comes after all posted writes
            assert len(rings[1].take_used()) == 1
            assert [client.interrupts(m.IRQ_MSIX, vector) for vector in range(4)] == [0, 0, 1, 0]
            for ring in rings:
                ring.close()

    async def test(bench: Bench) -> None:
        await asyncio.to_thread(vm, bench)
        await bench.state(AttachmentState.WAITING)
        assert bench.device.status == 0
        assert not bench.device.attached
        assert not bench.nic.guest.attached

    run(path, test)


def test_intx_works_over_socket(path: Path) -> None:
    def vm(bench: Bench, change: Callable[[], None]) -> None:
        with FakeGuestMemory(1 << 20) as ram, bench.client() as client:
            client.attach(ram)
            client.set_eventfds(m.IRQ_INTX, 0, 1)
            client.set_eventfds(m.IRQ_INTX, 0, 1, action=m.IRQ_ACTION_UNMASK)
            driver = VirtioPciDriver(client)
            rings = [DriverRing(ram, index, 64) for index in range(3)]
            driver.start(VERSION_1, rings)
            change()
            assert client.interrupts(m.IRQ_INTX) == 1
            client.irq_action(m.IRQ_ACTION_UNMASK, m.IRQ_INTX)
            assert client.interrupts(m.IRQ_INTX) == 1  # still asserted
            assert driver.isr() == 3
            client.irq_action(m.IRQ_ACTION_UNMASK, m.IRQ_INTX)
            assert client.interrupts(m.IRQ_INTX) == 0
            change()
            change()
            assert client.interrupts(m.IRQ_INTX) == 1
            os.eventfd_write(client.eventfds[-1, 0], 1)
            driver.config(0, 4)
            driver.config(0, 4)
            assert client.interrupts(m.IRQ_INTX) == 1
            for ring in rings:
                ring.close()

    async def test(bench: Bench) -> None:
        loop = asyncio.get_running_loop()

        async def change() -> None:
            bench.device.change_config(b"x")

        await asyncio.to_thread(
            vm, bench, lambda: asyncio.run_coroutine_threadsafe(change(), loop).result(60)
        )

    run(path, test)


def test_eventfds_alone_enable_msix(path: Path) -> None:
    """As with Linux VFIO, whose client never writes the capability's enable bit."""

    def vm(bench: Bench) -> None:
        with FakeGuestMemory(1 << 20) as ram, bench.client() as client:
            client.attach(ram)
            client.set_eventfds(m.IRQ_INTX, 0, 1)
            driver = VirtioPciDriver(client)
            rings = [DriverRing(ram, index, 64) for index in range(3)]
            driver.start(VERSION_1, rings)
            driver.put(16, 2, 3)
            for on in (True, False, True):
                if on:
                    client.set_eventfds(m.IRQ_MSIX, 0, 4)
                else:
                    client.irq_action(m.IRQ_ACTION_TRIGGER, m.IRQ_MSIX, 0)
                bench.device.change_config(b"x")
                assert client.interrupts(m.IRQ_MSIX, 3) == on
                assert client.interrupts(m.IRQ_INTX) == (not on)
                assert driver.isr() == 3
                client.irq_action(m.IRQ_ACTION_UNMASK, m.IRQ_INTX)
            for ring in rings:
                ring.close()

    run_vm(path, vm)


def test_asserted_intx_is_silent_after_msix_is_enabled(path: Path) -> None:
    def vm(bench: Bench) -> None:
        with FakeGuestMemory(1 << 20) as ram, bench.client() as client:
            client.attach(ram)
            driver = VirtioPciDriver(client)
            rings = [DriverRing(ram, index, 64) for index in range(3)]
            driver.start(VERSION_1, rings)
            bench.device.change_config(b"x")
            client.set_eventfds(m.IRQ_MSIX, 0, 4)
            client.set_eventfds(m.IRQ_INTX, 0, 1)
            assert client.interrupts(m.IRQ_INTX) == 0
            client.irq_action(m.IRQ_ACTION_TRIGGER, m.IRQ_MSIX, 0)
            assert client.interrupts(m.IRQ_INTX) == 1, "the level is still there"
            for ring in rings:
                ring.close()

    run_vm(path, vm)


def test_posted_and_multiple_writes_keep_order(path: Path) -> None:
    def vm(bench: Bench) -> None:
        with bench.client() as client:
            client.attach()
            client.window_write(4, 0x2000, b"a")
            client.write_multi((4, 0x2001, b"bc"), (4, 0x2003, b"d"))
            client.window_write(4, 0x2004, b"e")
            client.config_read(0, 4)

    async def test(bench: Bench) -> None:
        await asyncio.to_thread(vm, bench)
        writes = [call for call in bench.device.calls if isinstance(call, tuple) and call[0] == "config"]
        assert writes == [("config", 0, b"a"), ("config", 1, b"bc"), ("config", 3, b"d"), ("config", 4, b"e")]

    run(path, test)


def test_rings_keep_positions_when_memory_is_remapped(path: Path) -> None:
    """As QEMU does while the BIOS shadows: views are dropped, and the rings keep their positions."""

    def vm(bench: Bench) -> None:
        with FakeGuestMemory(1 << 20) as ram, bench.client() as client:
            client.attach(ram)
            driver = VirtioPciDriver(client)
            rings = [DriverRing(ram, index, 64) for index in range(3)]
            driver.start(VERSION_1, rings)
            for _ in range(3):
                client.unmap(ram)
                rings[1].add([(ram.alloc(64), 64)])
                rings[1].publish()
                driver.kick(1)
                assert driver.status == 15
                assert rings[1].take_used() == []
                client.map(ram)
                driver.kick(1)
                assert driver.status == 15
                assert len(rings[1].take_used()) == 1
            for ring in rings:
                ring.close()

    async def test(bench: Bench) -> None:
        await asyncio.to_thread(vm, bench)

    run(path, test)


def test_invalid_maps_are_refused(path: Path) -> None:
    def vm(bench: Bench) -> None:
        with FakeGuestMemory(1 << 20) as ram, bench.client() as client:
            client.attach(ram)
            before = open_fds()
            overlap = m.DMA_MAP_LAYOUT.pack(32, 3, 0, ram.guest_addr + 4096, 4096)
            too_long = m.DMA_MAP_LAYOUT.pack(32, 3, 0, 0x1000, 2 << 20)
            wraps = m.DMA_MAP_LAYOUT.pack(32, 3, 0, (1 << 64) - 4096, 8192)
            empty = m.DMA_MAP_LAYOUT.pack(32, 3, 0, 0x1000, 0)
            for request in (overlap, too_long, wraps, empty):
                assert client.ask(m.DMA_MAP, request, [ram.fd]).errno == 22
                if request is not too_long:
                    assert client.ask(m.DMA_MAP, request).errno == 22
            assert open_fds() == before
            assert (
                client.ask(m.DMA_UNMAP, m.DMA_UNMAP_LAYOUT.pack(24, 0, 0x1000, 4096)).errno == 2
            )  # ENOENT, as libvfio-user
            # A range with several maps; all of them; and the same again, which is refused.
            client.demand(m.DMA_UNMAP, m.DMA_UNMAP_LAYOUT.pack(24, 0, 0, 1 << 40))
            client.demand(m.DMA_UNMAP, m.DMA_UNMAP_LAYOUT.pack(24, m.DMA_UNMAP_ALL, 0, 0))
            client.demand(m.DMA_UNMAP, m.DMA_UNMAP_LAYOUT.pack(24, m.DMA_UNMAP_ALL, 0, 0))

    async def test(bench: Bench) -> None:
        await asyncio.to_thread(vm, bench)

    run(path, test)


def test_vms_are_served_in_turn(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        first = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(first.attach)
        second = await asyncio.to_thread(bench.client)
        assert await asyncio.to_thread(second.at_end)
        second.close()
        assert await asyncio.to_thread(first.config_read, 0, 2) == b"\xf4\x1a"
        first.close()
        await bench.state(AttachmentState.WAITING)
        third = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(third.attach)
        third.close()

    run(path, test)
    assert "a VM is attached already" in caplog.text


def test_silent_vm_is_disconnected_for_next_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "CONTESTED_S", 0.01)

    async def test(bench: Bench) -> None:
        silent = await asyncio.to_thread(bench.client)
        other = await asyncio.to_thread(bench.client)
        assert await asyncio.to_thread(silent.at_end)
        await asyncio.to_thread(other.attach)
        silent.close()
        other.close()

    run(path, test)
    assert "it did not negotiate, and another client waits" in caplog.text


def test_negotiated_vm_may_be_silent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CONTESTED_S", 0.01)

    async def test(bench: Bench) -> None:
        first = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(first.version)
        second = await asyncio.to_thread(bench.client)
        assert await asyncio.to_thread(second.at_end), "refused, as one is there"
        await asyncio.to_thread(first.attach_to_mapped)
        for client in (first, second):
            client.close()

    run(path, test)


def test_vm_that_negotiates_too_late_is_disconnected(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "HANDSHAKE_S", 0.01)

    async def test(bench: Bench) -> None:
        silent = await asyncio.to_thread(bench.client)
        with (
            FakeGuestMemory(4096) as ram,
            contextlib.suppress(BrokenPipeError),
        ):  # disconnected already, on a slow machine
            socket.send_fds(silent.sock, [bytes(4)], [ram.fd] * 2)  # not even a header
        assert await asyncio.to_thread(silent.at_end)
        silent.close()

    run(path, test)
    assert "it did not negotiate within" in caplog.text


def test_disconnect_within_message_is_handled(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test(bench: Bench) -> None:
        with FakeGuestMemory(4096) as ram:
            client = await asyncio.to_thread(bench.client)
            header = m.HEADER.pack(1, m.DMA_MAP, 48, 0, 0)
            socket.send_fds(client.sock, [header], [ram.fd])
            await bench.state(AttachmentState.ATTACHED)
            client.close()
            await bench.state(AttachmentState.WAITING)

    run(path, test)
    assert "ended within a message" in caplog.text


@pytest.mark.parametrize(
    ("data", "fds", "text"),
    [
        (m.HEADER.pack(1, m.VERSION, 3, 0, 0), 0, "header alone"),
        (m.HEADER.pack(1, m.VERSION, 0xFFFFFFFF, 0, 0), 0, "message payload"),
        (m.HEADER.pack(1, m.DEVICE_RESET, 16, 0, 0), 0, "before VERSION"),
        (m.HEADER.pack(1, m.VERSION, 20, 0, 0) + bytes(4), 1, "descriptors"),
        (m.HEADER.pack(1, m.VERSION, 20, 0, 0), 16, "descriptors"),
        (b"\xff" * 64, 0, "payload"),
    ],
)
def test_hostile_vm_is_disconnected(
    path: Path, caplog: pytest.LogCaptureFixture, data: bytes, fds: int, text: str
) -> None:
    async def test(bench: Bench) -> None:
        client = await asyncio.to_thread(bench.client)
        with FakeGuestMemory(4096) as ram:
            socket.send_fds(client.sock, [data], [ram.fd] * fds)
            if len(data) == 16 and fds:
                client.sock.send(bytes(4))
        assert await asyncio.to_thread(client.at_end)
        client.close()
        await bench.state(AttachmentState.WAITING)

    run(path, test)
    cut = [record for record in caplog.records if "cut off" in record.message]
    assert len(cut) == 1
    assert text in cut[0].message


def test_descriptors_of_a_vm_are_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(QUOTA, "_limit", lambda: 64)  # 48 for guests, 24 for one

    async def test(bench: Bench) -> None:
        def use_up(client: VfioUserClient) -> None:
            client.version()
            for _ in range(50):  # replaced descriptors do not add up
                client.set_eventfds(m.IRQ_MSIX, 0, 2)
            with FakeGuestMemory() as ram:
                maps = [m.DMA_MAP_LAYOUT.pack(32, 3, 0, at << 12, 1 << 12) for at in range(12)]
                for each in maps[:11]:
                    client.demand(m.DMA_MAP, each, [ram.fd])
                assert QUOTA.held("nic0") == 24
                client.demand(m.DMA_UNMAP, m.DMA_UNMAP_LAYOUT.pack(24, 0, 0, 1 << 12))
                client.demand(m.DMA_MAP, maps[0], [ram.fd])
                client.send(m.DMA_MAP, maps[11], [ram.fd])
                with contextlib.suppress(
                    AssertionError
                ):  # it is carried out, and only then found to exceed the limit
                    client._read(m.HEADER.size)
                assert client.at_end()

        client = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(use_up, client)
        client.close()
        await bench.state(AttachmentState.WAITING)
        assert QUOTA.held("nic0") == 0

    run(path, test)
    warnings = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert warnings == ["nic0: the VM detached: 26 descriptors are above the limit of 24 for one guest"]


def test_exception_in_model_disconnects_one_vm(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(bench: Bench) -> None:
        def broken(offset: int, length: int) -> bytes:
            raise ZeroDivisionError

        bench.device.read_config = broken  # type: ignore[method-assign]  # the point is a model that breaks
        client = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(client.attach)
        client.send(m.REGION_READ, m.REGION_ACCESS.pack(0x2000, 4, 4))
        assert await asyncio.to_thread(client.at_end)
        client.close()
        await bench.state(AttachmentState.WAITING)

    run(path, test)
    assert "ZeroDivisionError" in caplog.text


def test_storm_of_writes_does_not_block_loop(path: Path) -> None:
    """While one VM posts as fast as it can, each turn of the loop carries out only a part."""
    write = m.encode(1, m.REGION_WRITE, m.REGION_ACCESS.pack(0x2000, 4, 4) + bytes(4), flags=m.FLAG_NO_REPLY)

    def vm(client: VfioUserClient) -> None:
        for _ in range(100):
            client.sock.sendall(write * 200)
        client.config_read(0, 4)

    async def test(bench: Bench) -> None:
        client = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(client.attach)
        storm = asyncio.get_running_loop().run_in_executor(None, vm, client)
        most = 0
        while not storm.done():
            before = len(bench.device.calls)
            await asyncio.sleep(0)
            most = max(most, len(bench.device.calls) - before)
        await storm
        client.close()
        assert len(bench.device.calls) >= 20_000
        assert most <= 2 * (
            PIECE_BYTES // len(write) + 1
        )  # from one look to the next may be the parts of two turns

    run(path, test)


def test_expensive_writes_are_spread_over_turns(path: Path) -> None:
    """One message may contain 200 of them; each can make a NIC send a whole ring, or reset it."""

    async def test(bench: Bench) -> None:
        written: list[int] = []

        def slow(offset: int, data: bytes) -> None:
            written.append(data[0])
            time.sleep(0.003)

        bench.device.write_config = slow  # type: ignore[method-assign]  # stands for anything that takes long
        client = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(client.attach)
        loop = asyncio.get_running_loop()
        client.write_multi(*[(4, 0x2000, bytes((number,))) for number in range(200)])
        vm = loop.run_in_executor(None, client.config_read, 0, 4)
        turns = 0
        while not vm.done():
            await asyncio.sleep(0)
            turns += bool(written)
        assert written == list(range(200)), "before what came behind them"
        assert turns > 150
        client.write_multi(*[(4, 0x2000, b"x")] * 200)
        await asyncio.sleep(0.05)
        client.close()  # in the middle
        await bench.state(AttachmentState.WAITING)

    run(path, test)


def test_expensive_messages_are_spread_over_turns(path: Path) -> None:
    """Messages that take longer than register accesses (here 2 ms each, all in one piece) are limited by time, in
    order."""

    async def test(bench: Bench) -> None:
        client = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(client.attach)
        turns, resets = 0, []

        def reset() -> None:
            time.sleep(0.002)
            resets.append(turns)

        bench.pci.reset = reset  # type: ignore[method-assign]  # the point is one that takes its time
        client.sock.sendall(m.encode(1, m.DEVICE_RESET, flags=m.FLAG_NO_REPLY) * 30)
        last = client.send(m.DEVICE_RESET)
        while len(resets) < 31:
            turns += 1
            await asyncio.sleep(0)
        assert max(map(resets.count, resets)) <= 2
        assert await asyncio.to_thread(client.reply, last, m.DEVICE_RESET) == (0, b"")
        client.sock.sendall(m.encode(1, m.DEVICE_RESET, flags=m.FLAG_NO_REPLY) * 30)
        await asyncio.sleep(0.005)
        client.close()  # the rest of the backlog is carried out, then the VM is disconnected
        await bench.state(AttachmentState.WAITING)

    run(path, test)


def test_killed_vm_with_backlog_is_disconnected(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A VM that is restarted at once finds its NIC free."""

    async def test(bench: Bench) -> None:
        first = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(first.attach)
        reset = bench.pci.reset
        begun = asyncio.Event()
        resets = 0

        def slow_reset() -> None:
            nonlocal resets
            resets += 1
            begun.set()
            time.sleep(0.003)  # longer than a turn
            reset()

        bench.pci.reset = slow_reset  # type: ignore[method-assign]  # stands for anything that takes long
        first.sock.sendall(m.encode(1, m.DEVICE_RESET, flags=m.FLAG_NO_REPLY) * 100)
        await begun.wait()
        first.close()
        second = bench.client()
        await asyncio.to_thread(second.attach)
        assert resets < 100
        second.close()

    run(path, test)
    assert not caplog.records


@pytest.fixture
def waits_for_the_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The VM ends a drain: it falls silent and then disconnects, however slow the machine is."""
    monkeypatch.setattr(vfio_user, "DRAIN_SECONDS", 60)


@pytest.mark.usefixtures("waits_for_the_vm")
def test_close_notifies_drains_and_half_closes(path: Path) -> None:
    async def test(bench: Bench) -> None:
        client = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(client.attach)
        closed = asyncio.Event()
        bench.attachment.close(closed.set)
        assert bench.attachment.session is not None
        assert bench.attachment.session.state is SessionState.DRAINING
        # The guest still reads the cause of its last interrupt.
        reading = client.send(m.REGION_READ, m.REGION_ACCESS.pack(0x2000, 4, 8))
        assert (await asyncio.to_thread(client.reply, reading, m.REGION_READ)).payload[16:] == b"vnictest"
        await bench.state(SessionState.HALF_CLOSED)
        assert await asyncio.to_thread(client.at_end)
        client.window_write(4, 0x2000, b"late")  # accepted and dropped
        await asyncio.sleep(0.02)
        assert not closed.is_set()
        client.close()
        await asyncio.wait_for(closed.wait(), 30)
        await bench.state(AttachmentState.CLOSED)

    run(path, test)


@pytest.mark.usefixtures("waits_for_the_vm")
def test_close_waits_for_slow_driver_to_see_link_down(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        monkeypatch.setattr(VirtioPci, "link_lag_seconds", 0.3)
        client = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(client.attach)
        bench.nic.release(HoldKind.NO_PEER, "test", "up")
        bench.nic.report.driver_ok(True)
        closed = asyncio.Event()
        started = asyncio.get_running_loop().time()
        bench.nic.hold(HoldKind.NO_PEER, "test", "the end")
        bench.attachment.close(closed.set)
        await bench.state(SessionState.HALF_CLOSED)
        assert asyncio.get_running_loop().time() - started > 0.3
        client.close()
        await asyncio.wait_for(closed.wait(), 30)

    run(path, test)


def test_close_does_not_wait_forever_for_vm(path: Path) -> None:
    async def test(bench: Bench) -> None:
        client = await asyncio.to_thread(bench.client)
        await asyncio.to_thread(client.attach)
        busy = True

        def chatter() -> None:
            while busy:
                try:
                    client.window_write(4, 0x2000, b"x")
                except OSError:
                    return

        talking = asyncio.get_running_loop().run_in_executor(None, chatter)
        await bench.close()
        busy = False
        await talking
        client.close()

    run(path, test)


def test_close_works_before_start_and_twice(path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        attachment = VfioUserAttachment(loop, VirtioPci(FakeVirtioDevice()), make_nic(), str(path))
        done: list[int] = []
        attachment.close(lambda: done.append(1))
        attachment.close(lambda: done.append(2))
        assert done == [1, 2]

    asyncio.run(main())


def test_path_in_use_is_refused(path: Path) -> None:
    async def test(bench: Bench) -> None:
        loop = asyncio.get_running_loop()
        other = VfioUserAttachment(loop, VirtioPci(FakeVirtioDevice()), make_nic(), bench.attachment.path)
        with pytest.raises(NetError, match="listens there already"):
            other.start()
        await bench.state(AttachmentState.WAITING)

    run(path, test)


def start_driver(bench: Bench, ram: FakeGuestMemory) -> VfioUserClient:
    """A VM whose driver is running, so that a back-end can take its rings."""
    client = bench.client()
    client.attach(ram)
    rings = [DriverRing(ram, index, 64) for index in range(3)]
    driver = VirtioPciDriver(client)
    driver.start(VERSION_1, rings)
    assert driver.status == 15  # a read comes after all posted writes
    for ring in rings:
        ring.close()
    return client


def test_next_vm_waits_until_back_end_returns_rings(path: Path) -> None:
    async def test(bench: Bench) -> None:
        back_end = bench.device.back_end = SlowBackend()
        with FakeGuestMemory(1 << 20) as ram:
            first = await asyncio.to_thread(start_driver, bench, ram)
            bench.device.back_end = None
            first.close()
            await bench.state(AttachmentState.LEAVING)
            second = await asyncio.to_thread(bench.client)
            waiting = asyncio.create_task(asyncio.to_thread(second.attach, ram))
            await asyncio.sleep(0.02)
            third = await asyncio.to_thread(bench.client)
            assert await asyncio.to_thread(third.at_end)
            assert not waiting.done()
            back_end.returned(bench.device)
            await waiting
            assert bench.attachment.state is AttachmentState.ATTACHED
            second.close()
            third.close()

    run(path, test)


def test_killed_waiting_vm_is_dropped(path: Path) -> None:
    async def test(bench: Bench) -> None:
        back_end = bench.device.back_end = SlowBackend()
        with FakeGuestMemory(1 << 20) as ram:
            first = await asyncio.to_thread(start_driver, bench, ram)
            bench.device.back_end = None
            first.close()
            await bench.state(AttachmentState.LEAVING)
            second = await asyncio.to_thread(bench.client)
            await asyncio.sleep(0.02)
            second.close()
            third = await asyncio.to_thread(bench.client)
            waiting = asyncio.create_task(asyncio.to_thread(third.attach, ram))
            await asyncio.sleep(0.02)
            back_end.returned(bench.device)
            await waiting
            third.close()

    run(path, test)


@pytest.mark.parametrize("with_next", [False, True])
def test_close_waits_for_rings(path: Path, with_next: bool) -> None:
    async def test(bench: Bench) -> None:
        back_end = bench.device.back_end = SlowBackend()
        with FakeGuestMemory(1 << 20) as ram:
            first = await asyncio.to_thread(start_driver, bench, ram)
            bench.device.back_end = None
            first.close()
            await bench.state(AttachmentState.LEAVING)
            second = await asyncio.to_thread(bench.client) if with_next else None
            await asyncio.sleep(0.02)
            closed = asyncio.Event()
            bench.attachment.close(closed.set)
            assert not closed.is_set()
            back_end.returned(bench.device)
            await asyncio.wait_for(closed.wait(), 30)
            if second is not None:
                assert await asyncio.to_thread(second.at_end)
                second.close()

    run(path, test)

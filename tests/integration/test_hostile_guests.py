"""Guests that mean harm with what they share, descriptors and memory: they are cut off, and no other guest notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu.qmp import QMPClient
from tests.conftest import require
from tests.fakes.deaf_fuse import deaf_fuse
from tests.fakes.hostile_memory import (
    MMIO,
    E1000Sender,
    HonestGuest,
    arp_request,
    memory_of,
    other_pages,
    private_mounts,
    sparse_file,
)
from tests.integration.process import PATIENCE_S, Place, guest_on, is_listening, wait_for
from tests.processes import is_alive

from vnic.lab.played.driver import DriverRing, NetDriver
from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient
from vnic.lab.played.virtio_pci_driver import NOTIFY, VERSION_1, VirtioPciDriver
from vnic.nic.intel import regs
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vhost_user import messages as vu

FULL = 2**64 - 2
"""The most that an eventfd counts to: a write has to wait."""


async def ask(path: str) -> None:
    """A process that waits for the guest never answers."""
    client = QMPClient("test")
    await asyncio.wait_for(client.connect(path), PATIENCE_S)
    await asyncio.wait_for(client.execute("query-links"), PATIENCE_S)
    await client.disconnect()


@contextlib.contextmanager
def beside_a_good_guest(
    place: Place, attach_type: str, complaint: str, *, model: str = "virtio-net", netdev: str = ""
) -> Iterator[str]:
    """The socket of a NIC for a bad guest. Another guest is there all the time, and in the end its memory is as it was;
    it, the monitor and a new guest are served, and `complaint` is the one thing that was said."""
    bad = f"{model},id=bad{netdev},attach.type={attach_type},attach.path=bad.sock"
    good = "virtio-net,id=good,netdev=net0,attach.type=vhost-user,attach.path=good.sock"
    new = "virtio-net,id=new,attach.type=vhost-user,attach.path=new.sock"
    nets = ("-netdev", "echo,id=net0,ip=10.0.2.2", "-netdev", "echo,id=net1,ip=10.0.2.2")
    options = (*nets, "-device", bad, "-device", good, "-device", new)
    with place.run(*options) as running:
        with HonestGuest(place.path("good.sock")) as honest:
            honest.assert_untouched()
            yield place.path("bad.sock")
            honest.assert_untouched()
            asyncio.run(ask(running.qmp_path))
            with guest_on(place.path("new.sock")) as guest:
                assert not guest.sees_up()
        code, stderr = running.end()
    assert code == 0
    assert stderr.count("\n") == 1, stderr
    assert complaint in stderr


@contextlib.contextmanager
def bad_guest(path: str, memory: FakeGuestMemory | None = None) -> Iterator[NetDriver]:
    """Its running driver; it is cut off in the end."""
    memory = memory or FakeGuestMemory()
    driver = NetDriver(memory)
    wire = SocketWire.connect(path)
    client = VhostUserClient(wire, memory, driver)
    try:
        client.start()
        client.link_up()  # with the answer, all before it is done
        yield driver
        wait_for(wire.closed)
    finally:
        client.close()
        driver.close()
        memory.close()


def test_blocking_call_descriptor_ends_its_client_only(place: Place) -> None:
    with (
        beside_a_good_guest(
            place, "vhost-user", "the call descriptor of ring 1: it was made to block"
        ) as path,
        bad_guest(path) as driver,
    ):
        for ring in driver.rings:
            os.eventfd_write(ring.call_fd, FULL)
            os.set_blocking(ring.call_fd, True)
        driver.send(bytes(60))


def test_truncated_memory_ends_vhost_user_vm_only(place: Place) -> None:
    with (
        beside_a_good_guest(place, "vhost-user", "was truncated") as path,
        bad_guest(path) as driver,
    ):
        os.ftruncate(driver.memory.fd, 0)
        for ring in driver.rings:
            os.eventfd_write(ring.kick_fd, 1)


def test_truncated_memory_ends_vfio_user_vm_only(place: Place) -> None:
    with (
        beside_a_good_guest(place, "vfio-user", "was truncated") as path,
        FakeGuestMemory() as memory,
        VfioUserClient(path) as client,
    ):
        client.attach(memory)
        driver = VirtioPciDriver(client)
        ring = DriverRing(memory, 1)
        driver.start(VERSION_1, [ring])
        doorbell = driver.get(30, 2) * driver.multiplier
        os.ftruncate(memory.fd, 0)
        driver.put(doorbell, 2, ring.index, NOTIFY)
        assert client.at_end()
        ring.close()


def test_truncated_memory_ends_vm_with_e1000_only(place: Place) -> None:
    with (
        beside_a_good_guest(place, "vfio-user", "was truncated", model="e1000") as path,
        FakeGuestMemory() as memory,
        VfioUserClient(path) as client,
    ):
        client.attach(memory)
        sender = E1000Sender(client, memory)
        sender.send(other_pages(memory, 100))
        sender.wait()
        os.ftruncate(memory.fd, 0)
        with contextlib.suppress(OSError):
            client.window_write(MMIO, regs.TDT, bytes(4))
        assert client.at_end()


SPARSE = 1 << 30


@pytest.fixture
def sparse_fd() -> int:
    require(private_mounts(), "a mount namespace of one's own")
    return sparse_file(SPARSE, "512k")


def test_full_tmpfs_ends_vhost_user_vm_only(place: Place, sparse_fd: int) -> None:
    """Its file has the size that was promised, and tmpfs has no more pages: TX from each second page."""
    with (
        beside_a_good_guest(place, "vhost-user", "has no room for its pages", netdev=",netdev=net1") as path,
        bad_guest(path, FakeGuestMemory(SPARSE, fd=sparse_fd)) as driver,
    ):
        ring = driver.rings[1]
        for address in other_pages(driver.memory, 250):
            ring.add([(address, 100)])
        ring.publish()


def test_full_tmpfs_ends_vm_with_e1000_only(place: Place, sparse_fd: int) -> None:
    with (
        beside_a_good_guest(place, "vfio-user", "has no room for its pages", model="e1000") as path,
        memory_of(sparse_fd, SPARSE) as memory,
        VfioUserClient(path) as client,
    ):
        client.attach(memory)
        E1000Sender(client, memory, size=1024).send(other_pages(memory, 1000))
        assert client.at_end()


def test_full_tmpfs_ends_receiving_vm_only(place: Place, sparse_fd: int) -> None:
    """RX buffers in pages that cannot be had: it is vnic that writes to them first."""
    with (
        beside_a_good_guest(place, "vhost-user", "has no room for its pages", netdev=",netdev=net1") as path,
        bad_guest(path, FakeGuestMemory(SPARSE, fd=sparse_fd)) as driver,
    ):
        receiving, sending = driver.rings[:2]
        for address in other_pages(driver.memory, 250):
            receiving.add([], [(address, 2048)])
        receiving.publish()
        frame = driver.memory.alloc(2048)
        driver.memory.write(frame, bytes(driver.header_bytes) + arp_request())
        for _ in range(250):
            sending.add([(frame, driver.header_bytes + len(arp_request()))])
        sending.publish()


@pytest.mark.parametrize("attach_type", ["vhost-user", "vfio-user"])
def test_memory_of_another_kind_of_file_is_refused(place: Place, attach_type: str) -> None:
    """A file on a disk, or whatever else is no file of shmem or hugetlbfs."""
    with beside_a_good_guest(
        place, attach_type, "memory has to be memfd, or files on tmpfs or hugetlbfs"
    ) as path:
        other = os.open("/proc/self/mem", os.O_RDWR)
        try:
            if attach_type == "vfio-user":
                with VfioUserClient(path) as client:
                    client.version()
                    client.send(m.DMA_MAP, m.DMA_MAP_LAYOUT.pack(32, 3, 0, GUEST_ADDR, 1 << 20), [other])
                    assert client.at_end()
            else:
                with FakeGuestMemory() as memory:
                    wire, driver = SocketWire.connect(path), NetDriver(memory)
                    front_end = VhostUserClient(wire, memory, driver)
                    front_end.negotiate()
                    front_end.send(vu.SET_MEM_TABLE, struct.pack("<II", 1, 0) + front_end.region(), [other])
                    wait_for(wire.closed)
                    front_end.close()
                    driver.close()
        finally:
            os.close(other)


def test_hanging_close_delays_no_other_client(place: Place, tmp_path: Path) -> None:
    """The close of a file on FUSE waits for its daemon, uninterruptibly: it is refused, and closed beside the loop."""
    bad = "virtio-net,id=bad,attach.type=vhost-user,attach.path=bad.sock"
    good = "virtio-net,id=good,attach.type=vhost-user,attach.path=good.sock"
    with place.run("-device", bad, "-device", good) as running:
        with deaf_fuse(tmp_path) as fuse:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE_S)
                client.connect(place.path("bad.sock"))
                fuse.pass_on(client, vu.HEADER.pack(vu.SET_VRING_KICK, vu.VERSION, 8), 2)
                assert client.recv(1) == b""
            wait_for(fuse.all_wait)
            asyncio.run(ask(running.qmp_path))
            with guest_on(place.path("good.sock")) as guest:
                assert not guest.sees_up()
            with socket.socket(socket.AF_UNIX) as waiting:
                waiting.connect(place.path("bad.sock"))
                waiting.send(vu.HEADER.pack(vu.GET_FEATURES, vu.VERSION, 0))
                asyncio.run(ask(running.qmp_path))
                waiting.setblocking(False)
                with pytest.raises(BlockingIOError):
                    waiting.recv(1)
                fuse.abort()
                waiting.settimeout(PATIENCE_S)
                assert len(waiting.recv(20)) == 20
        code, stderr = running.end()
    assert code == 0
    assert stderr.count("\n") == 2
    assert "a file was passed (of fuse.deaf; 'echo 1 > /sys/fs/fuse/connections/" in stderr
    assert "bad: no client is taken until the descriptors of the last one are closed" in stderr


def test_path_of_a_vnic_that_cannot_end_is_free(place: Place, tmp_path: Path) -> None:
    """Killed while a close hangs: its main thread is a zombie, and the next vnic takes its sockets over."""
    options = ("-device", "virtio-net,id=bad,attach.type=vhost-user,attach.path=bad.sock")
    with deaf_fuse(tmp_path) as fuse, place.start("run", *options) as killed:
        wait_for(lambda: is_listening(place.path("bad.sock")))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(place.path("bad.sock"))
            fuse.pass_on(client, bytes(12))
            assert client.recv(1) == b""
        wait_for(fuse.all_wait)
        killed.kill()
        wait_for(lambda: not is_alive(killed.pid))
        try:
            with (
                place.run(*options, name="next") as following,
                guest_on(place.path("bad.sock")) as guest,
            ):
                assert not guest.sees_up()
                assert following.end()[0] == 0
        finally:
            fuse.abort()

"""Guests that mean harm with what they share, descriptors and memory: they are cut off, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

from qemu.qmp import QMPClient
from tests.integration.process import PATIENCE_S, Place, guest_on, wait_for

from vnic.testing.driver import DriverRing, NetDriver
from vnic.testing.guest_memory import FakeGuestMemory
from vnic.testing.vfio_user_client import VfioUserClient
from vnic.testing.vhost_user_client import SocketWire, VhostUserClient
from vnic.testing.virtio_pci_driver import NOTIFY, VERSION_1, VirtioPciDriver

FULL = 2**64 - 2
"""The most that an eventfd counts to: a write has to wait."""


async def ask(path: str) -> None:
    """A process that waits for the guest never answers."""
    client = QMPClient("test")
    await asyncio.wait_for(client.connect(path), PATIENCE_S)
    await asyncio.wait_for(client.execute("query-links"), PATIENCE_S)
    await client.disconnect()


@contextlib.contextmanager
def beside_a_good_guest(place: Place, attach_type: str, complaint: str) -> Iterator[str]:
    """The socket of a NIC for a bad guest; in the end another guest and the monitor are served, and `complaint` is
    the one thing that was said."""
    bad = f"virtio-net,id=bad,attach.type={attach_type},attach.path=bad.sock"
    good = "virtio-net,id=good,attach.type=vhost-user,attach.path=good.sock"
    with place.run("-device", bad, "-device", good) as running:
        yield place.path("bad.sock")
        asyncio.run(ask(running.qmp_path))
        with guest_on(place.path("good.sock")) as guest:
            assert not guest.sees_up()
        code, stderr = running.end()
    assert code == 0
    assert stderr.count("\n") == 1
    assert complaint in stderr


@contextlib.contextmanager
def bad_guest(path: str) -> Iterator[NetDriver]:
    """Its running driver; it is cut off in the end."""
    memory = FakeGuestMemory()
    driver = NetDriver(memory)
    wire = SocketWire.connect(path)
    client = VhostUserClient(wire, memory, driver)
    try:
        client.start()
        assert not client.link_up()  # with the answer, all before it is done
        yield driver
        wait_for(wire.closed)
    finally:
        client.close()
        driver.close()
        memory.close()


def test_a_call_descriptor_made_to_block(place: Place) -> None:
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


def test_shared_memory_truncated_over_vhost_user(place: Place) -> None:
    with (
        beside_a_good_guest(place, "vhost-user", "was truncated") as path,
        bad_guest(path) as driver,
    ):
        os.ftruncate(driver.memory.fd, 0)
        for ring in driver.rings:
            os.eventfd_write(ring.kick_fd, 1)


def test_shared_memory_truncated_over_vfio_user(place: Place) -> None:
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

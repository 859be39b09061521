"""vnic at its limit of descriptors: each refusal is an error and a log line; it goes on when some are free."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator

import msgspec
import pytest
from qemu.qmp import ExecuteError, QMPClient
from tests.integration.process import PATIENCE_S, Place, Running, guest_on, wait_for

from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vfio_user_client import VfioUserClient
from vnic.monitor.interfaces import GuestDescriptors, VnicInfo
from vnic.protocol.vfio_user import messages as m

NIC = "virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock"
NIC_ALONE = "virtio-net,id=nic0,attach.type=vhost-user,attach.path=nic0.sock"
AWAY = "virtio-net,id=nic1,attach.type=vhost-user,attach.path=away.sock,attach.server=off"

NEVER = 1 << 20
"""More descriptors than any process has."""

COMPLAINTS = (
    "nic0.sock: cannot accept: Too many open files",
    "nic1: cannot connect to away.sock: Too many open files",
)

ADDITIONS: list[tuple[str, dict[str, object]]] = [
    ("netdev_add", {"type": "socket", "id": "n1", "listen": "127.0.0.1:0"}),
    ("netdev_add", {"type": "socket", "id": "n2", "udp": "127.0.0.1:9", "localaddr": "127.0.0.1:0"}),
    ("object-add", {"qom-type": "filter-dump", "id": "f0", "netdev": "net0", "file": "dump"}),
    (
        "device_add",
        {"driver": "virtio-net", "id": "d1", "attach": {"type": "vhost-user", "path": "d1.sock"}},
    ),
    ("device_add", {"driver": "e1000", "id": "d2", "attach": {"type": "vfio-user", "path": "d2.sock"}}),
]


@contextlib.contextmanager
def without_descriptors(running: Running) -> Iterator[None]:
    """Let the process open no more than it has."""
    pid = running.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = NEVER
    for _ in range(20):  # one that it is about to close again is not counted
        used = min(used, len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.005)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@pytest.mark.needs("files")
def test_one_vm_cannot_use_up_the_descriptors_of_the_others(place: Place) -> None:
    """With the soft limit that shells and services start with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        running = place.run(
            "-device", "e1000,id=nic1,attach.type=vfio-user,attach.path=nic1.sock", "-device", NIC_ALONE
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with running, FakeGuestMemory() as memory, VfioUserClient(place.path("nic1.sock")) as vm:
        vm.version()
        for number in range(512):
            vm.demand(m.DMA_MAP, m.DMA_MAP_LAYOUT.pack(32, 3, 0, number << 12, 1 << 12), [memory.fd])
        with guest_on(place.path("nic0.sock")) as guest:
            assert not guest.sees_up()


def test_guests_together_leave_some_descriptors(place: Place) -> None:
    """Of 240, all guests may have 180 held and one of them 90: two that want more, and one that is served on."""
    options = ["-netdev", "echo,id=net0", "-device", NIC]
    for name in ("bad0", "bad1"):
        options += ("-device", f"e1000,id={name},attach.type=vfio-user,attach.path={name}.sock")
    with place.run(*options) as running:
        with (
            guest_on(place.path("nic0.sock")) as guest,
            FakeGuestMemory() as memory,
            VfioUserClient(place.path("bad0.sock")) as first,
            VfioUserClient(place.path("bad1.sock")) as second,
        ):
            assert guest.sees_up()
            limits = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (240, limits[1]))
            first.version()
            for at in range(45):
                first.demand(m.DMA_MAP, dma_map(at), [memory.fd])
            second.version()
            maps = 0
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, AssertionError):
                while maps < 45:  # the one above the limit is answered, or not any more
                    second.demand(m.DMA_MAP, dma_map(maps), [memory.fd])
                    maps += 1
            assert 35 < maps < 45
            assert second.at_end()
            asyncio.run(set_link(running, up=False))
            wait_for(lambda: not guest.sees_up())
            assert first.config_read(0, 2) == b"\x86\x80"
            with VfioUserClient(place.path("bad1.sock")) as following:
                following.attach(memory)
        code, stderr = running.end()
    assert code == 0
    assert stderr.count("\n") == 1
    assert "bad1: the VM detached: " in stderr
    assert "of other guests are above the limit of 180 for all guests" in stderr


async def set_link(running: Running, *, up: bool) -> None:
    client = QMPClient("test")
    await asyncio.wait_for(client.connect(running.qmp_path), PATIENCE_S)
    await asyncio.wait_for(client.execute("set_link", {"name": "nic0", "up": up}), PATIENCE_S)
    told = msgspec.convert(await asyncio.wait_for(client.execute("query-vnic"), PATIENCE_S), VnicInfo)
    assert GuestDescriptors("bad0", 90) in told.descriptors.guests
    await client.disconnect()


def dma_map(at: int) -> bytes:
    """One page."""
    return m.DMA_MAP_LAYOUT.pack(32, 3, 0, at << 12, 1 << 12)


def test_vnic_survives_without_free_descriptors(place: Place) -> None:
    running = place.run("-netdev", "echo,id=net0", "-device", NIC, "-device", AWAY)
    try:
        said = asyncio.run(refusals(place, running))
        wait_for(lambda: can_be_attached(place))
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(place.path("away.sock"))
            listening.listen()
            listening.settimeout(PATIENCE_S)
            listening.accept()[0].close()
    finally:
        code, stderr = running.end()
    assert code == 0
    assert "Traceback" not in said + stderr
    assert [(said + stderr).count(complaint) for complaint in COMPLAINTS] == [1, 1]


async def refusals(place: Place, running: Running) -> str:
    """What it said meanwhile."""
    assert running.process.stderr is not None
    stderr = running.process.stderr.fileno()
    client = QMPClient("test")
    await asyncio.wait_for(client.connect(running.qmp_path), PATIENCE_S)
    try:
        with without_descriptors(running), socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(place.path("nic0.sock"))
            for command, arguments in ADDITIONS:
                with pytest.raises(ExecuteError, match="Too many open files"):
                    await asyncio.wait_for(client.execute(command, arguments), PATIENCE_S)
            said = ""
            while not all(complaint in said for complaint in COMPLAINTS):
                said += (await asyncio.to_thread(os.read, stderr, 65536)).decode()
            await asyncio.sleep(1.2)  # two more attempts to accept
        for command, arguments in ADDITIONS[:2]:
            await asyncio.wait_for(client.execute(command, arguments), PATIENCE_S)
    finally:
        await client.disconnect()
    return said


def can_be_attached(place: Place) -> bool:
    try:
        with guest_on(place.path("nic0.sock")) as guest:
            return guest.sees_up()
    except OSError:
        return False

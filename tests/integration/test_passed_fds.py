"""What libvirt, Kata, LXD and ganeti do: a tap or a socket is opened elsewhere, passed by getfd, and named by `fd=`."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from qemu.qmp import ExecuteError, QMPClient
from tests.fakes.loops import open_fds
from tests.integration.namespace import frame, in_namespace, packet_socket, receive, up
from tests.integration.process import Place
from tests.unit.backend.helpers import until

from vnic.backend.tap.device import open_tap
from vnic.chardev.options import SocketOptions
from vnic.machine import Machine
from vnic.monitor import Mode, Monitors
from vnic.sockets.address import UnixAddress


@asynccontextmanager
async def machine_with_client() -> AsyncIterator[tuple[Machine, QMPClient]]:
    """A machine in this process, and a client on its QMP socket; afterwards all that was opened is closed."""
    loop = asyncio.get_running_loop()
    before = open_fds()
    machine, client = Machine(loop), QMPClient("test")
    monitors = Monitors(machine, loop)
    with tempfile.TemporaryDirectory(prefix="vnic-t-") as folder:
        monitors.add(SocketOptions(id="qmp", addr=UnixAddress(path=f"{folder}/q"), server=True), Mode.CONTROL)
        await client.connect(f"{folder}/q")
        try:
            yield machine, client
        finally:
            await client.disconnect()
            await machine.close()
            monitors.close()
    await until(lambda: open_fds() <= before)  # files are closed beside the loop


async def pass_fd(qmp: QMPClient, fd: int, name: str) -> None:
    """getfd; our own descriptor is closed, as theirs is."""
    qmp.send_fd_scm(fd)
    os.close(fd)
    await qmp.execute("getfd", {"fdname": name})


async def _tap() -> None:
    async with machine_with_client() as (_, qmp):
        fd, name, _ = open_tap("vp%d", vnet_hdr=True, multi_queue=False)
        await pass_fd(qmp, fd, "fd-net0")
        await qmp.execute("netdev_add", {"type": "tap", "id": "net0", "fd": "fd-net0"})
        await qmp.execute("netdev_add", {"type": "echo", "id": "echo0"})
        with pytest.raises(ExecuteError, match="File descriptor named 'fd-net0' has not been found"):
            await qmp.execute("netdev_add", {"type": "tap", "id": "net1", "fd": "fd-net0"})
        up(name)
        await qmp.execute("netdev_del", {"id": "net0"})
        await until(lambda: name not in os.listdir("/sys/class/net"))  # the last descriptor was closed


def test_tap_takes_descriptor_named_by_getfd() -> None:
    in_namespace(_tap)


async def _tap_carries_frames() -> None:
    async with machine_with_client() as (machine, qmp):
        fd, name, _ = open_tap("vp%d", vnet_hdr=True, multi_queue=False)
        await pass_fd(qmp, fd, "t")
        hub = {"type": "hubport", "hubid": 1}
        await qmp.execute("netdev_add", {"type": "tap", "id": "net0", "fd": "t"})
        await qmp.execute("netdev_add", {**hub, "id": "port0", "netdev": "net0"})
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        await pass_fd(qmp, theirs.detach(), "d")
        await qmp.execute("netdev_add", {"type": "dgram", "id": "net1", "local": {"type": "fd", "str": "d"}})
        await qmp.execute("netdev_add", {**hub, "id": "port1", "netdev": "net1"})
        up(name)
        await until(lambda: not machine.network.find_netdev("net0").holds)  # type: ignore[union-attr]  # net0 is there
        with ours, packet_socket(name) as host:
            ours.setblocking(False)
            host.send(frame(b"out" * 20))
            loop = asyncio.get_running_loop()
            while await loop.sock_recv(ours, 2000) != frame(b"out" * 20):
                pass  # what the kernel says of itself, as the interface comes up
            ours.send(frame(b"back" * 20))
            while await receive(host) != frame(b"back" * 20):
                pass


def test_passed_tap_carries_frames() -> None:
    in_namespace(_tap_carries_frames)


async def _queues() -> None:
    async with machine_with_client() as (machine, qmp):
        for name in ("q0", "q1"):
            await pass_fd(qmp, open_tap("vm0", vnet_hdr=True, multi_queue=True)[0], name)
        await qmp.execute("netdev_add", {"type": "tap", "id": "net0", "fds": "q0:q1"})
        assert machine.network.find_netdev("net0").queues == 2  # type: ignore[union-attr]  # net0 is there
        await pass_fd(qmp, open_tap("vm1", vnet_hdr=True, multi_queue=True)[0], "one")
        with pytest.raises(ExecuteError, match="File descriptor named 'two' has not been found"):
            await qmp.execute("netdev_add", {"type": "tap", "id": "net1", "fds": "one:two"})
        await until(lambda: "vm1" not in os.listdir("/sys/class/net"))


def test_each_queue_of_tap_takes_a_named_descriptor() -> None:
    in_namespace(_queues)


def test_descriptor_that_is_no_tap_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with machine_with_client() as (_, qmp):
            for opened in (
                os.open("/dev/null", os.O_RDWR),
                os.open(tmp_path, os.O_RDONLY),
                os.memfd_create("m"),
            ):
                await pass_fd(qmp, opened, "f")
                with pytest.raises(ExecuteError, match="Unable to query TUNGETIFF on FD"):
                    await qmp.execute("netdev_add", {"type": "tap", "id": "net0", "fd": "f"})

    asyncio.run(main())


def test_netdevs_take_sockets_named_by_getfd() -> None:
    async def main() -> None:
        async with machine_with_client() as (machine, qmp):
            ends = []
            for kind in ("stream", "socket"):
                ours, theirs = socket.socketpair()
                ends.append(ours)
                await pass_fd(qmp, theirs.detach(), kind)
            address = {"type": "fd", "str": "stream"}
            await qmp.execute("netdev_add", {"type": "stream", "id": "net0", "addr": address})
            await qmp.execute("netdev_add", {"type": "socket", "id": "net1", "fd": "socket"})
            hub = {"type": "hubport", "hubid": 1}
            for number in (0, 1):
                port = {**hub, "id": f"port{number}", "netdev": f"net{number}"}
                await qmp.execute("netdev_add", port)
            ends[0].sendall(len(frame(b"x")).to_bytes(4, "big") + frame(b"x"))
            ends[1].setblocking(False)
            got = await asyncio.get_running_loop().sock_recv(ends[1], 2000)
            assert got[4:] == frame(b"x")
            for each in ends:
                each.close()
            await until(lambda: machine.network.find_netdev("net0").holds)  # type: ignore[union-attr]  # net0 is there

    asyncio.run(main())


def test_chardev_takes_socket_named_by_getfd() -> None:
    async def main() -> None:
        async with machine_with_client() as (_, qmp):
            ours, theirs = socket.socketpair()
            await pass_fd(qmp, theirs.detach(), "c")
            await pass_fd(qmp, os.open("/dev/null", os.O_RDWR), "f")

            def backend(name: str) -> dict[str, object]:
                address = {"type": "fd", "data": {"str": name}}
                return {"type": "socket", "data": {"addr": address, "server": False}}

            await qmp.execute("chardev-add", {"id": "c", "backend": backend("c")})
            for name, error in (
                ("c", "Failed to add chardev 'x': File descriptor named 'c' has not been found"),
                ("2", "Failed to add chardev 'x': File descriptor named '2' has not been found"),
                ("f", "Failed to add chardev 'x': File descriptor 'f' is not a socket"),
            ):
                with pytest.raises(ExecuteError, match=error):
                    await qmp.execute("chardev-add", {"id": "x", "backend": backend(name)})
            await qmp.execute("chardev-remove", {"id": "c"})
            assert ours.recv(1) == b"", "it was closed"
            ours.close()

    asyncio.run(main())


@pytest.fixture
def place() -> Place:
    return Place()


def test_standard_error_stays_open(place: Place) -> None:
    """A client had it closed by its number; the next connection became descriptor 2, and was sent the log."""

    async def attack(path: str) -> None:
        client = QMPClient("test")
        await client.connect(path)
        for number in range(20):
            fd = str(number)
            for options in (
                {"type": "stream", "addr": {"type": "fd", "str": fd}},
                {"type": "dgram", "local": {"type": "fd", "str": fd}},
                {"type": "socket", "fd": fd},
                {"type": "tap", "fd": fd},
                {"type": "tap", "fds": f"{fd}:{fd}"},
                {"type": "tap", "vhost": True, "vhostfd": fd, "fd": fd},
            ):
                with pytest.raises(ExecuteError):
                    await client.execute("netdev_add", {"id": "n", **options})
            address = {"type": "fd", "data": {"str": fd}}
            backend = {"type": "socket", "data": {"addr": address}}
            with pytest.raises(ExecuteError):
                await client.execute("chardev-add", {"id": "c", "backend": backend})
        assert await client.execute("query-status")
        await client.disconnect()

    try:
        with place.run() as running:
            before = os.listdir(f"/proc/{running.process.pid}/fd")
            error = os.readlink(f"/proc/{running.process.pid}/fd/2")
            asyncio.run(attack(running.qmp_path))
            assert os.readlink(f"/proc/{running.process.pid}/fd/2") == error
            assert set(before) <= set(os.listdir(f"/proc/{running.process.pid}/fd"))
    finally:
        place.close()

"""QEMU as the far end of our socket back-ends: its netdevs, joined by its hub, carry bytes both ways in every role.

No guest runs in it (-M none): what one of its netdevs gets, its hub sends out of the other.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fakes.ports import free_ports
from tests.needs import need
from tests.unit.backend.helpers import Guest, Lab, until

from vnic.backend.options import DgramOptions, NetdevOptions, SocketOptions, StreamOptions
from vnic.net.client import Nic
from vnic.sockets.address import InetAddress, UnixAddress

pytestmark = pytest.mark.needs("loopback")

FRAMES = [bytes([n & 0xFF]) * (60 + 97 * n) for n in range(15)]


@contextmanager
def qemu(*netdevs: str) -> Iterator[subprocess.Popen[bytes]]:
    """A QEMU whose netdevs (`stream,…`, without an id) hang on one hub."""
    need("qemu")
    words = ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none"]
    for number, netdev in enumerate(netdevs):
        kind, _, rest = netdev.partition(",")
        words += ["-netdev", f"{kind},id=n{number},{rest}"]
        words += ["-netdev", f"hubport,id=h{number},hubid=0,netdev=n{number}"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run(main: object) -> None:
    assert asyncio.iscoroutine(main)
    asyncio.run(asyncio.wait_for(main, 100))


def listens(port: int) -> bool:
    """Whether somebody listens on a TCP port; nobody is disturbed by the question."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)


def inet(port: int) -> InetAddress:
    return InetAddress(host="127.0.0.1", port=str(port))


class Case:
    """One way to meet QEMU: our netdev, and QEMU's."""

    def __init__(self, ours: NetdevOptions, theirs: str, *, after_port: int | None = None) -> None:
        self.ours = ours
        self.theirs = theirs
        self.after_port = after_port
        """Our end tries once, so it comes after QEMU listens there."""


def case(kind: str, netdev_id: str, tmp_path: Path) -> Case:
    path = tmp_path / f"{netdev_id}.sock"
    if kind.startswith("dgram"):
        one, two = free_ports(socket.SOCK_DGRAM, 2)
        near, far = tmp_path / f"{netdev_id}.near", tmp_path / f"{netdev_id}.far"
        return {
            "dgram-udp": Case(
                DgramOptions(id=netdev_id, local=inet(one), remote=inet(two)),
                f"dgram,local.type=inet,local.host=127.0.0.1,local.port={two},"
                f"remote.type=inet,remote.host=127.0.0.1,remote.port={one}",
            ),
            "dgram-unix": Case(
                DgramOptions(
                    id=netdev_id, local=UnixAddress(path=str(near)), remote=UnixAddress(path=str(far))
                ),
                f"dgram,local.type=unix,local.path={far},remote.type=unix,remote.path={near}",
            ),
        }[kind]
    (port,) = free_ports(socket.SOCK_STREAM, 1)
    (udp_one, udp_two) = free_ports(socket.SOCK_DGRAM, 2)
    tcp = f"127.0.0.1:{port}"
    unix_address = UnixAddress(path=str(path))
    return {
        "stream-unix-server": Case(
            StreamOptions(id=netdev_id, server=True, addr=unix_address),
            f"stream,server=off,addr.type=unix,addr.path={path}",
        ),
        "stream-unix-client": Case(
            StreamOptions(id=netdev_id, addr=unix_address, reconnect_ms=20),
            f"stream,server=on,addr.type=unix,addr.path={path}",
        ),
        "stream-tcp-server": Case(
            StreamOptions(id=netdev_id, server=True, addr=inet(port)),
            f"stream,server=off,addr.type=inet,addr.host=127.0.0.1,addr.port={port}",
        ),
        "stream-tcp-client": Case(
            StreamOptions(id=netdev_id, addr=inet(port), reconnect_ms=20),
            f"stream,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port={port}",
        ),
        "socket-listen": Case(SocketOptions(id=netdev_id, listen=tcp), f"socket,connect={tcp}"),
        "socket-connect": Case(
            SocketOptions(id=netdev_id, connect=tcp), f"socket,listen={tcp}", after_port=port
        ),
        "socket-udp": Case(
            SocketOptions(id=netdev_id, udp=f"127.0.0.1:{udp_two}", localaddr=f"127.0.0.1:{udp_one}"),
            f"socket,udp=127.0.0.1:{udp_one},localaddr=127.0.0.1:{udp_two}",
        ),
        "socket-mcast": Case(
            SocketOptions(id=netdev_id, mcast=f"230.7.7.7:{udp_one}", localaddr="127.0.0.1"),
            f"socket,mcast=230.7.7.7:{udp_one},localaddr=127.0.0.1",
        ),
    }[kind]


KINDS = [
    "stream-unix-server",
    "stream-unix-client",
    "stream-tcp-server",
    "stream-tcp-client",
    "socket-listen",
    "socket-connect",
    "socket-udp",
    "dgram-udp",
    "dgram-unix",
]


async def arrive(sender: Nic, guest: Guest) -> None:
    """Send all FRAMES, each until it has arrived: what is sent before QEMU's own start is lost on datagrams."""
    for frame in FRAMES:
        for _ in range(30_000):
            sender.send(0, frame)
            await asyncio.sleep(0.002)
            if frame in guest.got:
                break
        else:
            pytest.fail("a frame did not arrive")


@pytest.mark.parametrize("kind", KINDS)
def test_frames_cross_qemus_hub_both_ways(kind: str, tmp_path: Path) -> None:
    """In through our end of `kind`, across QEMU's hub, and back through a stream; and the other way."""

    async def main() -> None:
        first = case(kind, "first", tmp_path)
        second = case("stream-unix-server", "second", tmp_path)
        async with Lab() as lab:
            _, nic_b, guest_b = lab.wire(second.ours)
            if first.after_port is None:
                _, nic_a, guest_a = lab.wire(first.ours)
            with qemu(first.theirs, second.theirs):
                await until(lambda: nic_b.link_up)
                if first.after_port is not None:
                    port = first.after_port
                    await until(lambda: listens(port))
                    _, nic_a, guest_a = lab.wire(first.ours)
                await until(lambda: nic_a.link_up)
                await arrive(nic_a, guest_b)
                await arrive(nic_b, guest_a)
            await until(lambda: not nic_b.link_up)
            if not kind.startswith("dgram") and kind != "socket-udp":
                await until(lambda: not nic_a.link_up)

    run(main())


def test_qemu_receives_multicast(tmp_path: Path) -> None:
    """A group member hears what it sends, so that a hub in QEMU sends it round once more: one way is enough."""

    async def main() -> None:
        group = case("socket-mcast", "group", tmp_path)
        stream = case("stream-unix-server", "stream", tmp_path)
        async with Lab() as lab:
            _, _, heard = lab.wire(group.ours)
            _, nic, _ = lab.wire(stream.ours)
            with qemu(stream.theirs, group.theirs):
                await until(lambda: nic.link_up)
                await arrive(nic, heard)

    run(main())


@pytest.mark.parametrize("kind", ["stream-unix-server", "stream-tcp-client"])
def test_link_follows_a_qemu_that_dies_and_returns(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        way = case(kind, "net0", tmp_path)
        async with Lab() as lab:
            netdev, nic, guest = lab.wire(way.ours)
            for _ in range(3):
                with qemu(way.theirs) as process:
                    await until(lambda: nic.link_up)
                    process.send_signal(signal.SIGKILL)
                    await until(lambda: not nic.link_up)
            assert netdev.carrier_up_changes == 3
            assert guest.link[-6:] == [True, False] * 3
            assert len(lab.named("NETDEV_STREAM_CONNECTED")) == 3
            assert len(lab.named("NETDEV_STREAM_DISCONNECTED")) == 3

    run(main())

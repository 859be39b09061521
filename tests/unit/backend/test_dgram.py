"""Tests of dgram and the datagram forms of socket: one frame per datagram, QEMU's texts, no busy loop at a full
peer."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
from pathlib import Path

import pytest
from tests.fakes.ports import free_ports
from tests.unit.backend.helpers import Lab, run, until

from vnic.backend import netdev_add
from vnic.backend.datagram import RETRY_MAX_S, DatagramPort
from vnic.backend.options import DgramOptions, NetdevOptions, SocketOptions
from vnic.net.errors import NetError
from vnic.sockets import lookup
from vnic.sockets.address import FdAddress, InetAddress, UnixAddress, VsockAddress

pytestmark = pytest.mark.needs("loopback")


def free_port() -> int:
    (port,) = free_ports(socket.SOCK_DGRAM, 1)
    return port


def inet(port: int | str, host: str = "127.0.0.1") -> InetAddress:
    return InetAddress(host=host, port=str(port))


def pairs(tmp_path: Path) -> dict[str, tuple[NetdevOptions, NetdevOptions, str]]:
    """Two ends that fit, for every transport, and the info text of the first."""
    one, two = free_port(), free_port()
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left_fd, right_fd = left.detach(), right.detach()
    group = inet(one, "230.1.2.3")
    here = inet(0)
    paths = UnixAddress(path=str(tmp_path / "a")), UnixAddress(path=str(tmp_path / "b"))
    names = (
        UnixAddress(path=f"vnic-a-{os.getpid()}", abstract=True),
        UnixAddress(path=f"vnic-b-{os.getpid()}", abstract=True),
    )
    udp = f"127.0.0.1:{one}", f"127.0.0.1:{two}"
    return {
        "udp": (
            DgramOptions(id="a", local=inet(one), remote=inet(two)),
            DgramOptions(id="b", local=inet(two), remote=inet(one)),
            f"udp=127.0.0.1:{one}/127.0.0.1:{two}",
        ),
        "unix": (
            DgramOptions(id="a", local=paths[0], remote=paths[1]),
            DgramOptions(id="b", local=paths[1], remote=paths[0]),
            f"udp={tmp_path}/a:{tmp_path}/b",
        ),
        "abstract": (
            DgramOptions(id="a", local=names[0], remote=names[1]),
            DgramOptions(id="b", local=names[1], remote=names[0]),
            f"udp={names[0].path}:{names[1].path}",
        ),
        "fd": (
            DgramOptions(id="a", local=FdAddress(text=str(left_fd))),
            DgramOptions(id="b", local=FdAddress(text=str(right_fd))),
            f"fd={left_fd} unix",
        ),
        "mcast": (
            DgramOptions(id="a", local=here, remote=group),
            DgramOptions(id="b", local=here, remote=group),
            f"mcast=230.1.2.3:{one}",
        ),
        "socket-udp": (
            SocketOptions(id="a", udp=udp[1], localaddr=udp[0]),
            SocketOptions(id="b", udp=udp[0], localaddr=udp[1]),
            f"socket: udp={udp[1]}",
        ),
        "socket-mcast": (
            SocketOptions(id="a", mcast=f"230.1.2.4:{one}", localaddr="127.0.0.1"),
            SocketOptions(id="b", mcast=f"230.1.2.4:{one}", localaddr="127.0.0.1"),
            f"socket: mcast=230.1.2.4:{one}",
        ),
    }


@pytest.mark.parametrize("kind", ["udp", "unix", "abstract", "fd", "mcast", "socket-udp", "socket-mcast"])
def test_frames_pass_both_ways(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        all_pairs = pairs(tmp_path)
        first, second, text = all_pairs[kind]
        if kind != "fd":
            for options in all_pairs["fd"][:2]:
                assert isinstance(options, DgramOptions)
                assert isinstance(options.local, FdAddress)
                os.close(int(options.local.text))
        async with Lab() as lab:
            a, nic_a, guest_a = lab.wire(first)
            _, nic_b, guest_b = lab.wire(second)
            assert nic_a.link_up
            assert nic_b.link_up
            assert a.endpoint.info_text(0) == text
            nic_a.send(0, memoryview(b"to b" * 300))
            nic_b.send(0, b"to a")
            await until(lambda: b"to a" in guest_a.got and b"to b" * 300 in guest_b.got)
            if kind.endswith("mcast"):
                assert b"to b" * 300 in guest_a.got, "a member hears itself, as QEMU's does"

    run(main())
    assert list(tmp_path.iterdir()) == []


def test_full_unix_peer_causes_no_busy_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0
    try_again = DatagramPort._writable

    def counted(port: DatagramPort) -> None:
        nonlocal tries
        tries += 1
        try_again(port)

    monkeypatch.setattr(DatagramPort, "_writable", counted)

    async def main() -> None:
        path = tmp_path / "far"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as far:
            far.bind(str(path))
            async with Lab() as lab:
                local = UnixAddress(path=str(tmp_path / "near"))
                options = DgramOptions(id="net0", local=local, remote=UnixAddress(path=str(path)))
                _, nic, guest = lab.wire(options)
                count = 1
                while nic.send(0, count.to_bytes(4, "big")):
                    count += 1
                began = lab.loop.time()
                await asyncio.sleep(0.1)
                assert 0 < tries < 10 + (lab.loop.time() - began) / RETRY_MAX_S
                got: list[bytes] = []
                while len(got) < count:
                    got.append(await lab.loop.sock_recv(far, 100))
                assert got == [n.to_bytes(4, "big") for n in range(1, count + 1)]
                await until(lambda: guest.resumed)

    run(main())


def test_full_guest_pauses_the_socket() -> None:
    async def main() -> None:
        one, two = free_port(), free_port()
        async with Lab() as lab:
            _, nic_a, _ = lab.wire(DgramOptions(id="a", local=inet(one), remote=inet(two)))
            _, _, guest = lab.wire(DgramOptions(id="b", local=inet(two), remote=inet(one)))
            guest.room = 1
            for n in range(20):
                nic_a.send(0, bytes((n,)))
            await until(lambda: guest.got)
            guest.make_room()
            await until(lambda: len(guest.got) == 20)
            assert guest.got == [bytes((n,)) for n in range(20)]

    run(main())


def test_missing_receiver_only_loses_frames(tmp_path: Path) -> None:
    async def main() -> None:
        one, two = free_port(), free_port()
        async with Lab() as lab:
            _, nic, guest = lab.wire(DgramOptions(id="a", local=inet(one), remote=inet(two)))
            nowhere = UnixAddress(path=str(tmp_path / "nowhere"))
            _, unix_nic, _ = lab.wire(
                DgramOptions(id="u", local=UnixAddress(path=str(tmp_path / "u")), remote=nowhere)
            )
            assert unix_nic.send(0, b"lost")
            for _ in range(5):
                assert nic.send(0, b"lost")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
                far.bind(("127.0.0.1", two))
                far.sendto(b"hello", ("127.0.0.1", one))
                await until(lambda: guest.got == [b"hello"])

    run(main())


def test_stale_path_is_replaced_and_live_one_refused(tmp_path: Path) -> None:
    async def main() -> None:
        stale, live = tmp_path / "stale", tmp_path / "live"
        remote = UnixAddress(path=str(tmp_path / "r"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(stale))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(live))
            async with Lab() as lab:
                lab.add(DgramOptions(id="a", local=UnixAddress(path=str(stale)), remote=remote))
                in_use = f"can't bind unix={live} to socket: another program listens there already"
                with pytest.raises(NetError, match=in_use):
                    lab.add(DgramOptions(id="b", local=UnixAddress(path=str(live)), remote=remote))
            assert live.exists()

    run(main())


LOCAL, UNIX = inet(0), UnixAddress(path="x")
ONE = "exactly one of listen=, connect=, mcast= or udp= is required"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (DgramOptions(id="d"), "dgram requires local= parameter"),
        (DgramOptions(id="d", remote=inet(1)), "dgram requires local= parameter"),
        (DgramOptions(id="d", local=LOCAL), "type=inet or type=unix requires remote parameter"),
        (DgramOptions(id="d", local=UNIX), "type=inet or type=unix requires remote parameter"),
        (DgramOptions(id="d", local=LOCAL, remote=UNIX), "remote and local types must be the same"),
        (DgramOptions(id="d", local=FdAddress(text="3"), remote=UNIX), "don't set remote with local.fd"),
        (
            DgramOptions(
                id="d", local=VsockAddress(cid="1", port="1"), remote=VsockAddress(cid="1", port="2")
            ),
            "only support inet or fd type for local",
        ),
        (
            DgramOptions(id="d", local=UNIX, remote=inet(1, "230.0.0.1")),
            "only support inet or fd type for local",
        ),
        (DgramOptions(id="d", local=inet("xx"), remote=inet(1)), "port number 'xx' is invalid"),
        (DgramOptions(id="d", local=inet(70000), remote=inet(1)), "port number '70000' is invalid"),
        (
            DgramOptions(id="d", local=inet(1, "1.2.3"), remote=inet(1, "1.2.3.x")),
            "'1.2.3.x' is not a valid IPv4",
        ),
        (
            DgramOptions(id="d", local=inet(0, "192.0.2.1"), remote=inet(1)),
            "can't bind ip=192.0.2.1 to socket: Cannot assign requested address",
        ),
        (
            DgramOptions(id="d", local=inet(0, "x.y"), remote=inet(1, "230.0.0.1")),
            "localaddr 'x.y' is not a valid IPv4 address",
        ),
        (
            DgramOptions(id="d", local=UnixAddress(path="/" + "x" * 108), remote=UNIX),
            "UNIX socket path '/xxx",
        ),
        (
            DgramOptions(id="d", local=FdAddress(text="9999")),
            "Can't use file descriptor 9999: Bad file descriptor",
        ),
        (SocketOptions(id="s"), ONE),
        (SocketOptions(id="s", listen=":0", connect=":1"), ONE),
        (SocketOptions(id="s", listen=":0", localaddr=":1"), "localaddr= is only valid with mcast= or udp="),
        (SocketOptions(id="s", udp=":1"), "localaddr= is mandatory with udp="),
        (
            SocketOptions(id="s", listen="1234"),
            "host address '1234' doesn't contain ':' separating host from port",
        ),
        (SocketOptions(id="s", listen=":x"), "port number 'x' is invalid"),
        (
            SocketOptions(id="s", mcast="10.0.0.1:1"),
            "specified mcastaddr 10.0.0.1 (0x0a000001) does not contain a multicast address",
        ),
        (SocketOptions(id="s", fd="9999"), "s: Can't use file descriptor 9999: Bad file descriptor"),
        (
            SocketOptions(id="s", udp=":1", localaddr="nosuch.invalid:1"),
            "can't resolve host address 'nosuch.invalid'",
        ),
    ],
)
def test_bad_options_are_refused(options: NetdevOptions, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(host: str) -> str:
        raise socket.gaierror(host)

    monkeypatch.setattr(socket, "gethostbyname", no_such_name)  # a name server may take its time

    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        async with Lab() as lab:
            with pytest.raises(NetError, match=re.escape(text)):
                await lab.add_prepared(options)
            assert not list(lab.network.clients)
        assert len(os.listdir("/proc/self/fd")) <= before

    run(main())


def test_passed_stream_socket_is_refused() -> None:
    async def main() -> None:
        async with Lab() as lab:
            for remote in (None, inet(1, "230.0.0.1")):
                one, two = socket.socketpair()
                fd = one.detach()
                with pytest.raises(NetError, match=f"File descriptor '{fd}' is not a datagram socket"):
                    lab.add(DgramOptions(id="d", local=FdAddress(text=str(fd)), remote=remote))
                two.close()
            read, write = os.pipe()
            with pytest.raises(NetError, match=f"File descriptor '{read}' is not a socket"):
                lab.add(DgramOptions(id="d", local=FdAddress(text=str(read))))
            os.close(write)

    run(main())


def test_name_lookup_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who adds the netdev waits; its id is taken meanwhile, and a NIC that waits for it is plugged in then."""
    answer = threading.Event()

    def slow_server(host: str) -> str:
        assert answer.wait(60)
        return "127.0.0.1"

    monkeypatch.setattr(socket, "gethostbyname", slow_server)

    async def main() -> None:
        async with Lab() as lab:
            first = lab.add(DgramOptions(id="a", local=inet(0), remote=inet(1)))
            nic, _ = lab.nic("a")
            lab.network.delete_netdev(first.name, "test")
            options = DgramOptions(id="a", local=inet(0, "here"), remote=inet(1, "there"))
            later = netdev_add(lab.context, options)
            assert later is not None
            with pytest.raises(NetError, match="Duplicate ID 'a'"):
                netdev_add(lab.context, options)
            for _ in range(10):  # the loop keeps running
                await asyncio.sleep(0)
            assert not later.done()
            assert not nic.link_up
            answer.set()
            await later
            assert nic.link_up

    run(main())


def test_unanswered_name_lookup_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "gethostbyname", lambda _: answer.wait(60))
    monkeypatch.setattr(lookup, "LIMIT_S", 0.01)

    async def main() -> None:
        async with Lab() as lab:
            with pytest.raises(NetError, match=r"can't resolve host address 'x': no answer within 0\.01 s"):
                await lab.add_prepared(SocketOptions(id="a", connect="x:1"))
            assert not list(lab.network.clients)

    try:
        run(main())
    finally:
        answer.set()


def test_name_lookup_without_threads_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)

    async def main() -> None:
        async with Lab() as lab:
            with pytest.raises(NetError, match="can't resolve host address 'x': can't start new thread"):
                await lab.add_prepared(SocketOptions(id="a", connect="x:1"))

    run(main())

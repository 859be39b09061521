"""Tests of stream: QEMU's framing and events, a link that follows the connection, and back-pressure both ways."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest
from tests.unit.backend.helpers import PATIENCE_S, Guest, Lab, run, until

from vnic.backend.options import StreamOptions
from vnic.net.errors import NetError
from vnic.net.queue import Frame
from vnic.sockets.address import FdAddress, InetAddress, SocketAddress, UnixAddress, VsockAddress


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


class Far:
    """The other end, by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.loop = asyncio.get_running_loop()

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await asyncio.wait_for(self.loop.sock_recv(self.sock, size - len(data)), PATIENCE_S)
            if not piece:
                break
            data += piece
        return data

    async def write(self, data: bytes) -> None:
        await asyncio.wait_for(self.loop.sock_sendall(self.sock, data), PATIENCE_S)

    def close(self) -> None:
        self.sock.close()


def dial(path: str | bytes) -> Far:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return Far(sock)


def server(path: Path, **more: object) -> StreamOptions:
    return StreamOptions(id="net0", server=True, addr=UnixAddress(path=str(path)))


def test_server_holds_link_until_peer_connects(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            netdev, nic, guest = lab.wire(server(path))
            assert not nic.link_up
            assert lab.why("net0") == f"listening on unix:{path}, no peer yet"
            assert lab.info().endswith("net0: index=0,type=stream,listening\n")
            far = dial(str(path))
            await until(lambda: nic.link_up)
            assert lab.named("NETDEV_STREAM_CONNECTED") == [
                {"netdev-id": "net0", "addr": {"path": str(path), "type": "unix"}}
            ]
            assert netdev.endpoint.info_text(0) == f"unix:{path}"
            far.close()
            await until(lambda: not nic.link_up)
            assert lab.named("NETDEV_STREAM_DISCONNECTED") == [{"netdev-id": "net0"}]
            assert lab.why("net0") == f"peer closed the connection; listening on unix:{path}"
            assert netdev.endpoint.info_text(0) == "listening"
            assert guest.link == [True, False]
            dial(str(path)).close()
        assert not path.exists()

    run(main())


def test_frames_pass_both_ways_in_any_pieces(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        frames = [bytes([n]) * size for n, size in enumerate((1, 14, 60, 1514, 65550, 69632))]
        async with Lab() as lab:
            _, nic, guest = lab.wire(server(path))
            far = dial(str(path))
            await until(lambda: nic.link_up)
            stream = framed(*frames, b"", b"end")
            for at in range(200):  # byte by byte over the first boundaries
                await far.write(stream[at : at + 1])
                await asyncio.sleep(0)
            await far.write(stream[200:])
            await until(lambda: len(guest.got) == len(frames) + 1)
            assert guest.got == [*frames, b"end"]
            for frame in frames:
                assert nic.send(0, memoryview(frame))
            assert await far.read(len(framed(*frames))) == framed(*frames)
            far.close()

    run(main())


def test_oversized_length_disconnects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            _, nic, guest = lab.wire(server(path))
            far = dial(str(path))
            await far.write(framed(b"ok") + struct.pack(">I", 69633) + bytes(100))
            await until(lambda: lab.named("NETDEV_STREAM_DISCONNECTED"))
            assert guest.got == [b"ok"]
            assert lab.why("net0").startswith(
                "a frame of 69633 bytes was announced, at most 69632 are taken; "
            )
            far.close()
            again = dial(str(path))
            await until(lambda: nic.link_up)
            again.close()

    run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "net0: the peer is cut off: a frame of 69633 bytes was announced, at most 69632 are taken"
    ]


def test_full_guest_pauses_reading_and_gets_all_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        frames = [struct.pack(">I", n) * 400 for n in range(3000)]
        async with Lab() as lab:
            _, nic, guest = lab.wire(server(path))
            guest.room = 10
            far = dial(str(path))
            await until(lambda: nic.link_up)
            writing = asyncio.ensure_future(far.write(framed(*frames)))
            await until(lambda: len(guest.got) == 10)
            await asyncio.sleep(0.05)
            assert len(guest.got) == 10
            assert not writing.done(), "the sender is slowed down"
            guest.make_room()
            await until(lambda: len(guest.got) == len(frames))
            await writing
            assert guest.got == frames
            far.close()

    run(main())


def test_close_by_peer_is_noticed_while_guest_is_full(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            _, nic, guest = lab.wire(server(path))
            guest.room = 0
            far = dial(str(path))
            await far.write(framed(b"one", b"two"))
            await until(lambda: not nic.can_send(0) or nic.link_up)
            await asyncio.sleep(0.02)
            far.close()
            await until(lambda: lab.named("NETDEV_STREAM_DISCONNECTED"))
            assert not nic.link_up

    run(main())


def test_full_peer_pauses_sender_without_loss(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            _, nic, guest = lab.wire(server(path))
            far = dial(str(path))
            await until(lambda: nic.link_up)
            frames = []
            for n in range(100_000):
                frames.append(struct.pack(">I", n) * 350)
                if not nic.send(0, frames[-1]):
                    break
            assert len(frames) < 2000, "the buffer is bounded"
            assert await far.read(len(framed(*frames))) == framed(*frames)
            assert guest.resumed == 1
            assert nic.send(0, b"more")
            assert await far.read(8) == framed(b"more")
            far.close()

    run(main())


def test_disconnect_of_full_peer_drops_its_queue(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            _, nic, guest = lab.wire(server(path))
            far = dial(str(path))
            await until(lambda: nic.link_up)
            while nic.send(0, bytes(1000)):
                pass
            far.close()
            await until(lambda: not nic.link_up)
            assert guest.resumed == 1
            far = dial(str(path))
            await until(lambda: nic.link_up)
            assert nic.send(0, b"hello")
            assert await far.read(9) == framed(b"hello")
            far.close()

    run(main())


def test_second_client_waits_in_backlog(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            _, nic, guest = lab.wire(server(path))
            first = dial(str(path))
            await until(lambda: nic.link_up)
            second = dial(str(path))
            await second.write(framed(b"from the second"))
            await first.write(framed(b"from the first"))
            await until(lambda: guest.got)
            assert guest.got == [b"from the first"]
            first.close()
            await until(lambda: len(guest.got) == 2)
            assert len(lab.named("NETDEV_STREAM_CONNECTED")) == 2
            second.close()

    run(main())


def test_failed_send_disconnects_after_the_call(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            _, nic, _ = lab.wire(server(path))
            far = dial(str(path))
            await until(lambda: nic.link_up)
            far.close()
            assert nic.send(0, b"x"), "dropped"
            assert nic.link_up, "not from within the send"
            await until(lambda: not nic.link_up)
            assert len(lab.named("NETDEV_STREAM_DISCONNECTED")) == 1

    run(main())


# -- client -----------------------------------------------------------------------------------------------------------


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    sock.setblocking(False)
    return sock


def test_client_without_reconnect_tries_once(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "nobody"
        async with Lab() as lab:
            netdev, nic, _ = lab.wire(StreamOptions(id="net0", addr=UnixAddress(path=str(path))))
            assert lab.why("net0") == f"connecting to unix:{path}"
            text = f"Failed to connect to '{path}': No such file or directory"
            await until(lambda: lab.why("net0") == text)
            assert netdev.endpoint.info_text(0) == f"error: {text}"
            assert not nic.link_up

    run(main())


def test_client_reconnects(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        options = StreamOptions(id="net0", addr=UnixAddress(path=str(path)), reconnect_ms=20)
        async with Lab() as lab:
            netdev, nic, guest = lab.wire(options)
            waiting = f"connect to unix:{path} failed: No such file or directory; trying again every 0.02 s"
            await until(lambda: lab.why("net0") == waiting)
            assert netdev.endpoint.info_text(0) == "connecting"
            for round_ in range(1, 4):
                sock = listening(path)
                far, _ = await asyncio.get_running_loop().sock_accept(sock)
                await until(lambda: nic.link_up)
                assert len(lab.named("NETDEV_STREAM_CONNECTED")) == round_
                sock.close()
                path.unlink()
                far.close()
                await until(lambda: not nic.link_up)
            assert guest.link == [False] + [True, False] * 3
            assert netdev.carrier_up_changes == 3

    run(main())


def test_operator_hold_survives_reconnect(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            netdev, nic, guest = lab.wire(server(path))
            lab.network.set_link("net0", False, "test")
            far = dial(str(path))
            await until(lambda: lab.named("NETDEV_STREAM_CONNECTED"))
            assert [str(kind) for kind in netdev.holds] == ["operator"]
            await far.write(framed(b"dropped"))
            await asyncio.sleep(0.02)
            lab.network.set_link("net0", True, "test")
            assert nic.link_up
            await far.write(framed(b"passes"))
            await until(lambda: guest.got)
            assert guest.got == [b"passes"]
            far.close()

    run(main())


@pytest.mark.parametrize(
    ("host", "family"),
    [
        pytest.param("127.0.0.1", "ipv4", marks=pytest.mark.needs("loopback")),
        pytest.param("::1", "ipv6", marks=pytest.mark.needs("ipv6")),
    ],
)
def test_tcp_between_two_netdevs(host: str, family: str) -> None:
    async def main() -> None:
        async with Lab() as lab:
            a, nic_a, guest_a = lab.wire(
                StreamOptions(id="a", server=True, addr=InetAddress(host=host, port="0"))
            )
            assert lab.why("a").startswith(f"listening on tcp:{host}:")
            port = lab.why("a").partition(",")[0].rpartition(":")[2]
            b, nic_b, guest_b = lab.wire(StreamOptions(id="b", addr=InetAddress(host=host, port=port)))
            await until(lambda: nic_a.link_up and nic_b.link_up)
            assert b.endpoint.info_text(0) == f"tcp:{host}:{port}"
            events = {data["netdev-id"]: data["addr"] for data in lab.named("NETDEV_STREAM_CONNECTED")}
            assert events["b"] == {"port": port, family: True, "host": host, "type": "inet"}
            client_port = a.endpoint.info_text(0).rpartition(":")[2]
            assert events["a"] == {"port": client_port, family: True, "host": host, "type": "inet"}
            nic_a.send(0, b"to b")
            nic_b.send(0, b"to a")
            await until(lambda: guest_a.got and guest_b.got)
            assert (guest_a.got, guest_b.got) == ([b"to a"], [b"to b"])

    run(main())


@pytest.mark.parametrize("tight", [True, False])
def test_abstract_address_is_used(tight: bool) -> None:
    async def main() -> None:
        addr = UnixAddress(path=f"vnic-test-{os.getpid()}", abstract=True, tight=tight)
        async with Lab() as lab:
            _, nic, _ = lab.wire(StreamOptions(id="a", server=True, addr=addr))
            b, _, _ = lab.wire(StreamOptions(id="b", addr=addr))
            await until(lambda: nic.link_up)
            assert b.endpoint.info_text(0) == f"unix:{addr.path}"
            expected = {"abstract": True, "path": addr.path, "type": "unix", "tight": tight}
            assert [data["addr"] for data in lab.named("NETDEV_STREAM_CONNECTED")] == [expected] * 2

    run(main())


def test_passed_connection_is_used_at_once() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        async with Lab() as lab:
            netdev, nic, guest = lab.wire(StreamOptions(id="net0", addr=FdAddress(text=str(ours.detach()))))
            assert nic.link_up
            assert netdev.endpoint.info_text(0) == "unix:"
            far = Far(theirs)
            await far.write(framed(b"hello"))
            await until(lambda: guest.got)
            assert lab.named("NETDEV_STREAM_CONNECTED") == [
                {"netdev-id": "net0", "addr": {"path": "", "type": "unix"}}
            ]
            far.close()
            await until(lambda: not nic.link_up)
            assert lab.why("net0") == "peer closed the connection; there is no reconnect-ms, so it stays so"

    run(main())


def test_passed_socket_listens(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        fd = sock.detach()
        async with Lab() as lab:
            netdev, nic, _ = lab.wire(StreamOptions(id="net0", server=True, addr=FdAddress(text=str(fd))))
            assert netdev.endpoint.info_text(0) == "listening"
            assert lab.why("net0") == f"listening on unix:{path}, no peer yet"
            far = dial(str(path))
            await until(lambda: nic.link_up)
            far.close()
            ours, theirs = socket.socketpair()
            with pytest.raises(NetError, match="Failed to listen on fd socket: Invalid argument"):
                lab.add(StreamOptions(id="net1", server=True, addr=FdAddress(text=str(ours.detach()))))
            theirs.close()

    run(main())


def test_netdev_del_closes_socket(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            _, nic, _ = lab.wire(server(path))
            far = dial(str(path))
            await until(lambda: nic.link_up)
            lab.network.delete_netdev("net0", "test")
            assert await far.read(1) == b""
            assert not path.exists()
            assert not nic.link_up
            assert lab.named("NETDEV_STREAM_DISCONNECTED") == []
            far.close()

    run(main())


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_bad_options_are_refused() -> None:
    async def main() -> None:
        unix = UnixAddress(path="x")
        async with Lab() as lab:
            with pytest.raises(
                NetError, match="'reconnect-ms' option is incompatible with socket in server mode"
            ):
                lab.add(StreamOptions(id="a", server=True, addr=unix, reconnect_ms=1))
            with pytest.raises(NetError, match="supports addresses of type"):
                lab.add(StreamOptions(id="a", addr=VsockAddress(cid="1", port="1")))
            with pytest.raises(NetError, match="'reconnect-ms' expects"):
                lab.add(StreamOptions(id="a", addr=unix, reconnect_ms=-1))
            with pytest.raises(NetError, match="Unable to parse FD number nofd"):
                lab.add(StreamOptions(id="a", addr=FdAddress(text="nofd")))
            with pytest.raises(NetError, match="Can't use file descriptor 9999: Bad file descriptor"):
                lab.add(StreamOptions(id="a", addr=FdAddress(text="9999")))
            assert not list(lab.network.clients)

    run(main())


LONG = "/" + "x" * 108


@pytest.mark.needs("loopback")
@pytest.mark.parametrize(
    ("addr", "text"),
    [
        (UnixAddress(path=LONG), f"UNIX socket path '{LONG}' is too long"),
        (UnixAddress(path=LONG[:108]), f"UNIX socket path '{LONG[:108]}' is too long"),
        (
            UnixAddress(path="/nonexistent/x"),
            "Failed to bind socket to /nonexistent/x: No such file or directory",
        ),
        (InetAddress(host="192.0.2.1", port="0"), "Failed to bind socket: Cannot assign requested address"),
        (
            InetAddress(host="127.0.0.1", port="foo"),
            "address resolution failed for 127.0.0.1:foo: Servname not supported for ai_socktype",
        ),
        (InetAddress(host="127.0.0.1", port="99999"), "port 99999 is not from 0 to 65535"),
        (
            InetAddress(host="::1", port="0", ipv4=False, ipv6=False),
            "Cannot disable IPv4 and IPv6 at same time",
        ),
    ],
)
def test_failed_bind_is_shown_in_info_and_hold(addr: SocketAddress, text: str) -> None:
    """As in QEMU the netdev is there, and `info network` says what is wrong; here its holds say so too."""

    async def main() -> None:
        async with Lab() as lab:
            netdev = lab.add(StreamOptions(id="net0", server=True, addr=addr))
            assert netdev.endpoint.info_text(0) == f"error: {text}"
            assert lab.why("net0") == text

    run(main())


def test_only_stale_socket_is_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        plain = tmp_path / "file"
        plain.write_text("precious")
        live = tmp_path / "live"
        stale = tmp_path / "stale"
        listening(stale).close()
        other = listening(live)
        failed = "error: Failed to bind socket to {}: {}"
        async with Lab() as lab:
            for netdev_id, path, info in (
                ("a", plain, failed.format(plain, "a plain file is there, which is left alone")),
                ("b", live, failed.format(live, "another program listens there already")),
                ("c", stale, "listening"),
            ):
                options = StreamOptions(id=netdev_id, server=True, addr=UnixAddress(path=str(path)))
                assert lab.add(options).endpoint.info_text(0) == info
            assert plain.read_text() == "precious"
        assert live.exists()
        assert not stale.exists()
        other.close()

    run(main())


def test_name_lookup_does_not_block() -> None:
    async def main() -> None:
        async with Lab() as lab:
            options = StreamOptions(
                id="net0", server=True, addr=InetAddress(host="localhost", port="0", ipv4=True)
            )
            netdev, nic, _ = lab.wire(options)
            assert netdev.endpoint.info_text(0) == "initializing"
            await until(lambda: netdev.endpoint.info_text(0) == "listening")
            lab.add(StreamOptions(id="gone", addr=InetAddress(host="localhost", port="1")))
            await asyncio.sleep(0)
            lab.network.delete_netdev("gone", "test")
            assert not nic.link_up

    run(main())


def test_immediate_answers_do_not_recurse(tmp_path: Path) -> None:
    class Answering(Guest):
        def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
            self.client.send(queue, b"re:" + bytes(frame))
            return True

    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            lab.add(server(path))
            nic = lab.network.add_nic("nic0", "virtio-net", Answering(), mac=bytes(6), netdev_id="net0")
            far = dial(str(path))
            await until(lambda: nic.link_up)
            await far.write(framed(*[b"ping"] * 500))
            assert await far.read(500 * 11) == framed(b"re:ping") * 500
            far.close()

    run(main())


def test_many_flaps_leak_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        async with Lab() as lab:
            netdev, nic, guest = lab.wire(server(path))
            before = len(os.listdir("/proc/self/fd"))
            for round_ in range(200):
                far = dial(str(path))
                await far.write(framed(b"whole") + framed(b"cut off")[: round_ % 8])
                await until(lambda: nic.link_up)
                far.close()
                await until(lambda: not nic.link_up)
            assert guest.got == [b"whole"] * 200, "what was cut off does not reach into the next connection"
            assert (netdev.carrier_up_changes, netdev.carrier_down_changes) == (200, 200)
            assert len(lab.named("NETDEV_STREAM_CONNECTED")) == 200
            assert len(os.listdir("/proc/self/fd")) == before

    run(main())

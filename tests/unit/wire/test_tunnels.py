"""TUNNEL ports: frames as VXLAN datagrams over real UDP sockets, both ways, and what does not belong to them."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest
from tests.fakes.tunnel_peer import (
    CONFIG,
    VNI,
    Ccm,
    TunnelPeer,
    TunnelSocket,
    receive_socket,
    send_socket,
    vxlan,
)
from tests.fakes.wire_ends import HEADER, Stream, passed, sockaddr_in, tcp_frame
from tests.fakes.wire_program import MAX_FRAME, PLAIN, Refused, WireGuest, WireProgram, frame, until

from vnic.dataplane.wire.messages import FrameReturned, Inject, Kind, Log, PortAdd, PortFlag, PortRemove
from vnic.dataplane.wire.tunnel_messages import (
    CcmMode,
    CcmSet,
    CcmState,
    FrameReceived,
    GetSocketStats,
    GetTunnelStats,
    Heard,
    PortToControl,
    SocketAdd,
    SocketRemove,
)
from vnic.net.offload import complete
from vnic.nic.virtio_net import features as net

pytestmark = pytest.mark.needs("loopback")

LONGEST = 65507 - 8
SENDING = PLAIN | net.CSUM | net.HOST_TSO4
TAG = bytes.fromhex("8100 0007")


def offer(guest: WireGuest, header: bytes, data: bytes) -> None:
    """Send a frame with something pending."""
    guest.driver.rings[1].take_used()
    guest.driver.queue_tx(data, 0, header)
    guest.driver.rings[1].publish()


def tagged(data: bytes) -> bytes:
    return data[:12] + TAG + data[12:]


def warnings(wire: WireProgram) -> list[str]:
    return [event.text for event in wire.events if isinstance(event, Log)]


def test_frames_pass_both_ways(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, TunnelPeer(TunnelSocket(wire), 2) as peer:
        wire.wire(1, 1, 2)
        sent = [frame(number, 60 + 7 * number) for number in range(40)]
        stream.send(*sent)
        assert peer.receive(40) == sent
        peer.send(*sent)
        assert stream.receive_all(40) == sent
        stats = wire.stats(2)
        total = sum(map(len, sent))
        assert (stats.frames_in, stats.bytes_in, stats.frames_out, stats.bytes_out) == (40, total, 40, total)
        assert stats.drops == {}


@pytest.mark.parametrize("size", [14, 60, 1514, 9014, LONGEST])
def test_frames_of_any_size_pass_whole(program: Path, size: int) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, TunnelPeer(TunnelSocket(wire), 2) as peer:
        wire.wire(1, 1, 2)
        sent = frame(1, 64)[:size].ljust(size, b"x")
        stream.send(sent)
        assert peer.receive() == [sent]
        peer.send(sent)
        assert stream.receive() == sent


def test_frame_that_no_datagram_carries_is_dropped(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, TunnelPeer(TunnelSocket(wire), 2) as peer:
        wire.wire(1, 1, 2)
        stream.send(frame(1, LONGEST + 1), frame(2))
        assert peer.receive() == [frame(2)]
        assert wire.stats(2).too_long == 1


def test_mtu_counts_in_both_directions_and_leaves_room_for_a_tag(program: Path) -> None:
    with (
        WireProgram(program) as wire,
        Stream(wire, 1) as stream,
        TunnelPeer(TunnelSocket(wire), 2, max_frame=1514) as peer,
    ):
        wire.wire(1, 1, 2)
        frames = [
            *(frame(1, 1514), frame(2, 1515), tagged(frame(3, 1514)), tagged(frame(4, 1515)), frame(5, 1518)),
            *(frame(6, 9000), frame(7)),
        ]
        fit = [frames[0], frames[2], frames[6]]
        stream.send(*frames)
        assert peer.receive(3) == fit
        assert wire.stats(2).too_long == 4
        peer.send(*frames)
        assert stream.receive_all(3) == fit
        assert wire.stats(2).too_long == 8


def test_runs_of_equal_frames_keep_their_order_and_borders(program: Path) -> None:
    """They go to the kernel as runs (UDP_SEGMENT) and come as runs (UDP_GRO)."""
    sizes = [100] * 70 + [101] + [100] * 3 + [60] + [1514] * 50 + [14] + [1514, 1513, 1514] + [LONGEST] * 2
    sent = [frame(number, 64)[:size].ljust(size, b"y") for number, size in enumerate(sizes)]
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 4) as two:
        first, second = TunnelSocket(wire, 1), TunnelSocket(wire, 2)
        for port, here, there in ((2, first, second), (3, second, first)):
            own = msgspec.structs.replace(CONFIG, socket=here.number).pack()
            dest = sockaddr_in(there.address)
            with send_socket(there.address) as sock:
                request = PortAdd(port, Kind.TUNNEL, max_frame=MAX_FRAME, dest=dest, own=own)
                wire.request(request, [sock.fileno()])
        wire.wire(1, 1, 2)
        wire.wire(2, 3, 4)
        one.send(*sent)
        assert two.receive_all(len(sent)) == sent
        two.send(*sent)
        assert one.receive_all(len(sent)) == sent
        assert wire.stats(2).drops == wire.stats(3).drops == {}


def test_segmentation_and_checksum_are_completed(program: Path) -> None:
    payload = bytes(range(256)) * 150
    whole, start = tcp_frame(payload)
    header = HEADER.pack(1, 1, start + 20, 1448, start, 16)
    with WireProgram(program) as wire, TunnelPeer(TunnelSocket(wire), 2) as peer:
        guest = wire.started_guest(1, SENDING)
        wire.wire(1, 1, 2)
        offer(guest, header, whole)
        expected = list(complete(header, whole))
        assert len(expected) == 27
        assert peer.receive(27) == expected
        only_sum = HEADER.pack(1, 0, 0, 0, start, 16)
        short, _ = tcp_frame(b"abc")
        offer(guest, only_sum, short)
        assert peer.receive() == list(complete(only_sum, short))
        bad = HEADER.pack(1, 1, 0, 0, start, 16)
        offer(guest, bad, whole)
        until(lambda: wire.stats(2).bad_offload == 1)
        assert wire.stats(2).frames_out == 28


def test_segments_above_the_mtu_are_dropped(program: Path) -> None:
    whole, start = tcp_frame(bytes(4000))
    header = HEADER.pack(1, 1, start + 20, 1448, start, 16)
    with WireProgram(program) as wire, TunnelPeer(TunnelSocket(wire), 2, max_frame=1400) as peer:
        guest = wire.started_guest(1, SENDING)
        wire.wire(1, 1, 2)
        offer(guest, header, whole)
        assert peer.receive() == list(complete(header, whole))[2:]
        assert wire.stats(2).too_long == 2


def test_tunnels_of_one_socket_are_told_apart(program: Path) -> None:
    with WireProgram(program, workers=2) as wire:
        shared = TunnelSocket(wire)
        peers = [TunnelPeer(shared, port, vni=VNI + port) for port in range(1, 6)]
        streams = [Stream(wire, 10 + peer.port) for peer in peers]
        for peer in peers:
            wire.wire(peer.port, peer.port, 10 + peer.port)
        for number, (peer, stream) in enumerate(zip(peers, streams, strict=True)):
            peer.send(frame(number))
            stream.send(frame(100 + number))
        for number, (peer, stream) in enumerate(zip(peers, streams, strict=True)):
            assert stream.receive() == frame(number)
            assert peer.receive() == [frame(100 + number)]
        for peer, stream in zip(peers, streams, strict=True):
            peer.sock.close()
            stream.sock.close()


def test_what_does_not_belong_is_counted_and_logged_once(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        shared = TunnelSocket(wire)
        with TunnelPeer(shared, 2) as peer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            wire.wire(1, 1, 2)
            stranger.bind(("127.0.0.2", 0))
            for number in range(5):
                peer.send_raw(vxlan(frame(number), VNI + 1))
                peer.send_raw(vxlan(b"")[: number + 1])
                peer.send_raw(bytes(8) + frame(number))
                peer.send_raw(vxlan(frame(number)[: number + 9]))
                stranger.sendto(vxlan(frame(number)), shared.address)
            peer.send_raw(b"")
            peer.send_raw(b"\xff\x01\x02\x03" + vxlan(frame(9))[4:7] + b"\xff" + frame(9))  # reserved bits
            assert stream.receive() == frame(9)
            assert msgspec.structs.asdict(shared.stats) == {
                "unknown_vni": 5,
                "unknown_source": 5,
                "truncated": 6,
                "not_vxlan": 5,
            }
            assert peer.stats.truncated == 5
            assert wire.stats(2).frames_in == 1
            assert peer.troubles == ["truncated"]
            assert sorted(warnings(wire)) == [
                "tunnels' socket 1: datagrams from addresses without a tunnel are dropped",
                "tunnels' socket 1: datagrams that are cut short are dropped",
                "tunnels' socket 1: datagrams that are not VXLAN are dropped",
            ]


def test_unknown_vnis_are_logged_when_all_tunnels_are_there(program: Path) -> None:
    """At the start they come one by one, and their peers speak already."""
    with WireProgram(program) as wire, TunnelPeer(TunnelSocket(wire), 2) as peer:

        def is_logged() -> bool:
            peer.send_raw(vxlan(frame(1), VNI + 1))
            return bool(warnings(wire)) or peer.shared.stats.unknown_vni < 0

        peer.send_raw(vxlan(frame(1), VNI + 1))
        until(lambda: peer.shared.stats.unknown_vni == 1)
        assert warnings(wire) == []
        until(is_logged)
        for _ in range(5):
            is_logged()
        wire.stats(2)  # what was logged meanwhile is read
        assert warnings(wire) == ["tunnels' socket 1: datagrams of an unknown VNI are dropped"]


def test_socket_without_a_tunnel_is_not_read(program: Path) -> None:
    """What comes is for the tunnel that is about to come, or for control that goes on with the socket."""
    with WireProgram(program) as wire, receive_socket() as kept, receive_socket() as peer:
        address, dest = kept.getsockname(), peer.getsockname()
        wire.request(SocketAdd(1), [kept.fileno()])
        peer.sendto(vxlan(Ccm(1, interval_us=1_000_000).frame()), address)
        own = msgspec.structs.replace(CONFIG, mode=CcmMode.ON, interval_us=1_000_000).pack()
        with send_socket(dest) as sending:
            request = PortAdd(2, Kind.TUNNEL, max_frame=MAX_FRAME, dest=sockaddr_in(dest), own=own)
            wire.request(request, [sending.fileno()])
        wire.await_event(lambda event: isinstance(event, CcmState) and event.heard == Heard.YES)
        wire.request(PortRemove(2))
        peer.sendto(vxlan(frame(2)), address)
        kept.settimeout(60)
        assert kept.recv(2000) == vxlan(frame(2))


def test_full_wire_holds_up_neither_other_tunnels_nor_memory(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 3) as other:
        shared = TunnelSocket(wire)
        with TunnelPeer(shared, 2) as slow, TunnelPeer(shared, 4, vni=7) as quick:
            guest = wire.started_guest(1)  # it offers no buffers yet
            wire.wire(1, 1, 2)
            wire.wire(2, 3, 4)
            sent = 0
            while not wire.stats(2).no_room:
                slow.send(*(frame(number, 1000) for number in range(sent, sent + 50)))
                sent += 50
                quick.send(frame(sent))
                assert other.receive() == frame(sent)
            passed(wire, 4, sent // 50)
            lost = wire.stats(2).no_room
            got: list[bytes] = []
            while len(got) < sent - lost:
                guest.driver.fill_rx(10)
                got += guest.receive(min(10, sent - lost - len(got)))
            assert got == [frame(number, 1000) for number in range(sent - lost)]
            assert 1 << 19 < 1000 * len(got) <= 1 << 20
            slow.send(frame(1))
            guest.driver.fill_rx(1)
            assert guest.receive(1) == [frame(1)]


def test_frames_that_wait_are_returned(program: Path) -> None:
    with WireProgram(program) as wire, TunnelPeer(TunnelSocket(wire), 2) as peer:
        wire.wire(1, 2)  # control is about to join it with another port
        peer.send(*(frame(number) for number in range(3)))
        peer.send_raw(vxlan(frame(4), VNI + 1))
        until(lambda: peer.shared.stats.unknown_vni)  # it came after them
        wire.request(PortRemove(2))
        returned = [event.frame for event in wire.events if isinstance(event, FrameReturned)]
        assert returned == [frame(number) for number in range(3)]


def test_frames_go_to_control_while_it_wants_them(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, TunnelPeer(TunnelSocket(wire), 2) as peer:
        wire.wire(1, 1, 2)
        wire.request(PortToControl(2, True))
        peer.send(frame(1), frame(2, 1514))
        got = [wire.await_event(lambda event: isinstance(event, FrameReceived)) for _ in range(2)]
        assert got == [FrameReceived(2, frame(1)), FrameReceived(2, frame(2, 1514))]
        assert wire.stats(2).frames_in == 2
        wire.request(Inject(2, 0, frame(3)))
        assert peer.receive() == [frame(3)]
        wire.request(PortToControl(2, False))
        peer.send(frame(4))
        assert stream.receive() == frame(4)


def test_frames_for_control_that_does_not_read_are_bounded(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, TunnelPeer(TunnelSocket(wire), 2) as peer:
        wire.request(PortToControl(2, True))
        with TunnelPeer(TunnelSocket(wire, 2), 3) as other:
            wire.wire(1, 1, 3)
            for _ in range(20):  # 12 MiB, more than may wait with all that sockets hold
                peer.send(*(frame(number, 60_000) for number in range(10)))
                other.send(frame(1))
                stream.receive()
            stats = wire.stats(2)  # reads all that waits
            assert 0 < stats.no_room < 200
            assert stats.no_room + stats.frames_in == 200
            assert (
                len([event for event in wire.events if isinstance(event, FrameReceived)]) == stats.frames_in
            )


def test_datagrams_at_the_send_socket_are_ignored(program: Path) -> None:
    with WireProgram(program) as wire, Stream(wire, 1) as stream, TunnelPeer(TunnelSocket(wire), 2) as peer:
        wire.wire(1, 1, 2)
        stream.send(frame(1))
        _, source = peer.sock.recvfrom(2000)
        for number in range(200):
            peer.sock.sendto(vxlan(frame(number)), source)
        peer.send(frame(2))
        assert stream.receive() == frame(2)


def test_peer_that_refuses_loses_frames_and_nothing_else(program: Path) -> None:
    """Without CCMs nothing else comes of it."""
    with WireProgram(program) as wire, Stream(wire, 1) as stream, TunnelPeer(TunnelSocket(wire), 2) as peer:
        wire.wire(1, 1, 2)
        address = peer.sock.getsockname()
        peer.sock.close()
        stream.send(*(frame(number) for number in range(50)))
        until(lambda: wire.stats(2).frames_out + wire.stats(2).refused == 50)
        peer.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.sock.bind(address)
        stream.send(*(frame(number) for number in range(50, 60)))
        assert peer.receive(10) == [frame(number) for number in range(50, 60)]
        peer.send(frame(3))
        assert stream.receive() == frame(3)


@pytest.mark.needs("ipv6")
def test_tunnel_over_ipv6(program: Path) -> None:
    def six(address: tuple[str, int, int, int]) -> bytes:
        family, port = socket.AF_INET6.to_bytes(2, "little"), address[1].to_bytes(2, "big")
        return family + port + bytes(4) + socket.inet_pton(socket.AF_INET6, address[0]) + bytes(4)

    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        ours = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        theirs = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sending = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with ours, theirs, sending:
            for sock in (ours, theirs):
                sock.bind(("::1", 0))
            ours.settimeout(60)
            sending.connect(ours.getsockname())
            there = theirs.getsockname()
            wire.request(SocketAdd(1), [theirs.fileno()])
            dest = six(ours.getsockname())
            request = PortAdd(2, Kind.TUNNEL, max_frame=MAX_FRAME, dest=dest, own=CONFIG.pack())
            wire.request(request, [sending.fileno()])
            wire.wire(1, 1, 2)
            stream.send(frame(1, LONGEST))
            assert ours.recv(1 << 17) == vxlan(frame(1, LONGEST))
            ours.sendto(vxlan(frame(2)), there)
            assert stream.receive() == frame(2)


def test_wrong_requests_are_refused(program: Path) -> None:
    with WireProgram(program) as wire, receive_socket() as sock, open("/dev/null") as null:
        shared = TunnelSocket(wire)
        address = sock.getsockname()
        dest = sockaddr_in(address)

        def refused(request: object, fds: list[int], field: str) -> None:
            with pytest.raises(Refused) as error:
                wire.request(request, fds)  # type: ignore[arg-type]  # any of them
            assert field in error.value.text

        def tunnel(dest: bytes = dest, **changes: object) -> PortAdd:
            own = msgspec.structs.replace(CONFIG, **changes).pack()
            return PortAdd(2, Kind.TUNNEL, max_frame=1514, dest=dest, own=own)

        refused(SocketAdd(1), [sock.fileno()], "socket")  # there is one
        refused(SocketAdd(1 << 20), [sock.fileno()], "socket")
        refused(SocketAdd(2), [], "fds")
        refused(SocketAdd(2), [null.fileno()], "fds")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            refused(SocketAdd(2), [other.fileno()], "fds")
        refused(SocketRemove(2), [], "socket")
        refused(GetSocketStats(2), [], "socket")
        refused(tunnel(socket=9), [sock.fileno()], "socket")
        refused(tunnel(), [], "fds")
        refused(tunnel(), [null.fileno()], "fds")
        refused(tunnel(dest=b""), [sock.fileno()], "dest")
        refused(tunnel(dest=bytes(16)), [sock.fileno()], "dest")
        refused(tunnel(dest=bytes(200)), [sock.fileno()], "dest")
        refused(tunnel(vni=1 << 24), [sock.fileno()], "vni")
        refused(tunnel(interval_us=10_000), [sock.fileno()], "interval_us")
        refused(tunnel(mode=CcmMode.ON, interval_us=5), [sock.fileno()], "interval_us")
        refused(tunnel(level=8), [sock.fileno()], "level")
        for mep in (0, 8192):
            refused(tunnel(mep=mep), [sock.fileno()], "mep")
        for status in (0, 8):
            refused(tunnel(status=status), [sock.fileno()], "status")
        refused(tunnel(key=b"short"), [sock.fileno()], "key_length")
        request = msgspec.structs.replace(tunnel(), own=b"")
        refused(request, [sock.fileno()], "own_len")
        refused(msgspec.structs.replace(tunnel(), queues=2), [sock.fileno()], "queues")
        refused(msgspec.structs.replace(tunnel(), flags=PortFlag.OFFLOAD), [sock.fileno()], "flags")
        assert wire.all_stats() == []
        with TunnelPeer(shared, 2):
            refused(msgspec.structs.replace(tunnel(), port=3), [sock.fileno()], "vni")
            refused(SocketRemove(1), [], "busy")
            refused(CcmSet(2, 0), [], "status")
            refused(CcmSet(2, 8), [], "status")
            with Stream(wire, 4):
                for request_ in (CcmSet(4, 1), PortToControl(4, True), GetTunnelStats(4)):
                    refused(request_, [], "not a tunnel")
            refused(GetTunnelStats(3), [], "no port")
            wire.request(PortRemove(2))
        wire.request(SocketRemove(1))

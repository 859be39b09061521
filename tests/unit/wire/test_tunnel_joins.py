"""TCP segments in a row that come through a tunnel are one frame for a guest that takes such; none is changed."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.tunnel_peer import TunnelPeer, TunnelSocket, vxlan
from tests.fakes.wire_ends import Stream
from tests.fakes.wire_program import PLAIN, WireGuest, WireProgram, frame, until

from vnic.net.offload import complete
from vnic.nic.virtio_net import features as net

pytestmark = pytest.mark.needs("loopback")

UDP_SEGMENT = 103
TAKING = PLAIN | net.GUEST_CSUM | net.GUEST_TSO4 | net.GUEST_TSO6
MSS = 1000
ETHERNET = bytes.fromhex("525400000002 525400000001")


def ones(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Segments:
    """Makes the segments of one connection."""

    def __init__(self, *, six: bool = False, port: int = 80, flags: int = 0x4000) -> None:
        self.six = six
        self.port = port
        self.sequence = 0xFFFF_F000
        self.flags = flags
        self.ident = 0xFFFE

    def make(
        self,
        size: int = MSS,
        *,
        tcp_flags: int = 0x10,
        ack: int = 7,
        window: int = 500,
        ttl: int = 64,
        tos: int = 0,
        options: bytes = bytes.fromhex("0101080a0000000100000002"),
        wrong_sum: int = 0,
        gap: int = 0,
    ) -> bytes:
        self.sequence = (self.sequence + gap) % (1 << 32)
        payload = bytes((self.sequence + at) % 251 for at in range(size))
        words = struct.pack(">HHII", 4000, self.port, self.sequence, ack)
        offset = (20 + len(options)) // 4 << 4
        tail = struct.pack(">H", 0) + options + payload
        tcp = words + struct.pack(">BBHH", offset, tcp_flags, window, 0) + tail
        self.sequence = (self.sequence + size) % (1 << 32)
        addresses = bytes(range(32)) if self.six else bytes([10, 0, 2, 15, 10, 0, 2, 2])
        total = ones(addresses + struct.pack(">II", len(tcp), 6) + tcp)
        tcp = tcp[:16] + struct.pack(">H", (0xFFFF - total) ^ wrong_sum) + tcp[18:]
        if self.six:
            return (
                ETHERNET
                + struct.pack(">HIHBB", 0x86DD, 0x6 << 28 | tos << 20, len(tcp), 6, ttl)
                + addresses
                + tcp
            )
        network = struct.pack(">BBHHHBB", 0x45, tos, 20 + len(tcp), self.ident, self.flags, ttl, 6)
        self.ident = (self.ident + 1) & 0xFFFF
        checksum = 0xFFFF - ones(network + addresses)
        return ETHERNET + b"\x08\0" + network + struct.pack(">H", checksum) + addresses + tcp


class Rig:
    """A guest at a tunnel, and what its frames are before they are joined."""

    def __init__(self, wire: WireProgram, features: int = TAKING) -> None:
        self.peer = TunnelPeer(TunnelSocket(wire), 2)
        self.guest: WireGuest = wire.started_guest(
            1, features, size=256, rx_bytes=2048, memory_bytes=32 << 20
        )
        self.wire = wire
        wire.wire(1, 1, 2)
        self.guest.driver.fill_rx(250)

    def send(self, segments: list[bytes]) -> None:
        """As runs of equal size, which arrive as runs."""
        at = 0
        while at < len(segments):
            end, size = at + 1, len(segments[at]) + 8
            while (
                end < len(segments)
                and end - at < 60
                and len(segments[end - 1]) + 8 == size >= len(segments[end]) + 8
            ):
                end += 1
            data = b"".join(map(vxlan, segments[at:end]))
            ancillary = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))] if end - at > 1 else []
            self.peer.sock.sendmsg([data], ancillary, 0, self.peer.shared.address)
            at = end

    def receive(self, count: int) -> tuple[list[bytes], list[int]]:
        """So many frames when all are segmented again, and how many the guest got of each."""
        frames: list[bytes] = []
        joined: list[int] = []

        def enough() -> bool:
            for packet in self.guest.driver.received_raw():
                parts = complete(packet[:10], packet[12:])
                frames.extend(parts)
                joined.append(len(parts))
            return len(frames) >= count

        until(enough)
        return frames, joined


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("last", [MSS, 1, 999])
def test_segments_in_a_row_are_one_frame(program: Path, six: bool, last: int) -> None:
    make = Segments(six=six).make
    sent = [*(make() for _ in range(19)), make(last, tcp_flags=0x18)]
    with WireProgram(program) as wire:
        rig = Rig(wire)
        rig.send(sent)
        assert rig.receive(20) == (sent, [20])
        assert wire.stats(2).drops == {}
        rig.peer.sock.close()


def test_connections_do_not_mix(program: Path) -> None:
    one, two = Segments(), Segments(port=81)
    sent = [each.make() for _ in range(3) for each in (one, one, two, two)]
    with WireProgram(program) as wire:
        rig = Rig(wire)
        rig.send(sent)
        assert rig.receive(12) == (sent, [2] * 6)
        rig.peer.sock.close()


@pytest.mark.parametrize(
    "change",
    [
        *({"tcp_flags": 0x12}, {"tcp_flags": 0x30}, {"tcp_flags": 0x11}, {"tcp_flags": 0x90}, {"ack": 8}),
        *({"window": 501}, {"ttl": 63}, {"tos": 4}, {"options": bytes(12)}, {"options": b""}),
        *({"wrong_sum": 1}, {"gap": 1}, {"gap": -MSS}, {"size": MSS + 1}, {"size": 0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_segment_that_differs_is_passed_as_it_is(program: Path, change: dict[str, int], six: bool) -> None:
    make = Segments(six=six).make
    sent = [make(), make(), make(**change), make(), make()]  # type: ignore[arg-type]  # its arguments
    with WireProgram(program) as wire:
        rig = Rig(wire)
        rig.send(sent)
        frames, joined = rig.receive(5)
        assert frames == sent
        assert joined[0] == 2
        rig.peer.sock.close()


def test_identifications_count_unless_the_packet_may_not_be_fragmented(program: Path) -> None:
    segments = Segments(flags=0)
    sent = [segments.make() for _ in range(4)]
    segments.ident += 1
    sent += [segments.make() for _ in range(4)]
    with WireProgram(program) as wire:
        rig = Rig(wire)
        rig.send(sent)
        assert rig.receive(8) == (sent, [4, 4])
        rig.peer.sock.close()


def test_frames_that_only_look_alike_pass(program: Path) -> None:
    make = Segments().make
    whole = make()
    odd = [
        *(whole + b"pad", whole[:40], whole[:53], make()[:-1], frame(1, 1054)),
        *(
            whole[:14] + b"\x46" + whole[15:],
            whole[:20] + b"\x20\0" + whole[22:],
            whole[:23] + b"\x11" + whole[24:],
        ),
        *(
            whole[:24] + b"\0\0" + whole[26:],
            whole[:46] + b"\x40" + whole[47:],
            whole[:46] + b"\xf0" + whole[47:],
        ),
    ]
    sent = [each for each in odd for _ in range(2)]
    with WireProgram(program) as wire:
        rig = Rig(wire)
        rig.send(sent)
        assert rig.receive(len(sent)) == (sent, [1] * len(sent))
        rig.peer.sock.close()


def test_guest_that_does_not_take_them_gets_segments(program: Path) -> None:
    make = Segments().make
    sent = [make() for _ in range(10)]
    with WireProgram(program) as wire:
        rig = Rig(wire, PLAIN)
        rig.send(sent)
        assert rig.receive(10) == (sent, [1] * 10)
        rig.peer.sock.close()


def test_stream_gets_segments(program: Path) -> None:
    make = Segments().make
    sent = [make() for _ in range(10)]
    with WireProgram(program) as wire, Stream(wire, 3) as stream:
        rig = Rig(wire)
        wire.wire(1, 1, 2, 3)  # a hub, where not all take them
        rig.send(sent)
        assert stream.receive_all(10) == sent
        assert rig.receive(10) == (sent, [1] * 10)
        rig.peer.sock.close()


def trains(source: random.Random) -> Iterator[bytes]:
    """Segments that mostly follow each other, of two connections."""
    connections = [Segments(six=source.random() < 0.5), Segments(flags=source.choice([0, 0x4000]))]
    for _ in range(60):
        connection = connections[source.random() < 0.1]
        size = MSS if source.random() < 0.9 else source.randrange(0, MSS + 2)
        change = source.choice([{"ack": 9}, {"tcp_flags": 0x18}, {"wrong_sum": 5}, {"gap": 3}, {"window": 2}])
        yield connection.make(size, **(change if source.random() < 0.1 else {}))  # type: ignore[arg-type]


def test_any_train_is_segmented_again_into_itself(program: Path) -> None:
    source = random.Random(5)
    with WireProgram(program) as wire:
        rig = Rig(wire)
        total = 0
        for _ in range(40):
            sent = list(trains(source))
            rig.send(sent)
            frames, joined = rig.receive(len(sent))
            assert frames == sent
            total += len(joined)
            rig.guest.driver.fill_rx(rig.guest.driver.rings[0].free)
        assert total < 40 * 60 // 2
        rig.peer.sock.close()

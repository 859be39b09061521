"""Frames with a pending checksum or segmentation at ports that take only complete ones: the same as the reference's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.wire_ends import HEADER, NOTHING, Stream, datagram_pair, receive_raw, tcp_frame
from tests.fakes.wire_program import PLAIN, WireGuest, WireProgram, frame, until

from vnic.net.offload import complete
from vnic.nic.virtio_net import features as net

SENDING = PLAIN | net.CSUM | net.HOST_TSO4 | net.HOST_TSO6 | net.HOST_ECN
TAKING = PLAIN | net.GUEST_CSUM | net.GUEST_TSO4 | net.GUEST_TSO6 | net.GUEST_ECN


def send(guest: WireGuest, header: bytes, data: bytes) -> None:
    ring = guest.driver.rings[1]
    ring.take_used()
    guest.driver.queue_tx(data, 0, header)
    ring.publish()


def checksum_pending() -> tuple[bytes, bytes]:
    data, l4 = tcp_frame(b"odd payload")
    return HEADER.pack(1, 0, 0, 0, l4, 16), data


def to_segment(payload: int, size: int) -> tuple[bytes, bytes]:
    data, l4 = tcp_frame(bytes(range(256)) * (payload // 256) + b"rest")
    return HEADER.pack(1, 1, l4 + 20, size, l4, 16), data


@pytest.mark.parametrize("offered", [checksum_pending(), to_segment(3000, 1000), to_segment(60_000, 1448)])
def test_guest_to_stream(program: Path, offered: tuple[bytes, bytes]) -> None:
    header, data = offered
    expected = complete(header, data)
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        guest = wire.started_guest(2, SENDING)
        wire.wire(1, 1, 2)
        send(guest, header, data)
        assert stream.receive_all(len(expected)) == expected
        assert wire.stats(1).frames_out == len(expected)


@pytest.mark.parametrize("offered", [checksum_pending(), to_segment(60_000, 1448)])
def test_guest_to_datagrams(program: Path, offered: tuple[bytes, bytes]) -> None:
    header, data = offered
    with WireProgram(program) as wire, datagram_pair(wire, 1) as datagrams:
        guest = wire.started_guest(2, SENDING)
        wire.wire(1, 1, 2)
        send(guest, header, data)
        for expected in complete(header, data):
            assert datagrams.recv(70_000) == expected


def test_guest_to_guest_that_takes_it(program: Path) -> None:
    header, data = to_segment(3000, 1000)
    with WireProgram(program) as wire:
        one = wire.started_guest(1, SENDING)
        two = wire.started_guest(2, TAKING)
        wire.wire(1, 1, 2)
        two.driver.fill_rx(8)
        send(one, header, data)
        got = receive_raw(two)
        assert got[0][: len(header)] == header
        assert got[0][12:] == data


@pytest.mark.parametrize("step", [1, 7])
def test_segments_wait_for_room_one_by_one(program: Path, step: int) -> None:
    """No segment is lost or sent twice, however often the receiver is full in the middle of a frame."""
    offered = [to_segment(20_000, 1000), (NOTHING, frame(1)), to_segment(5000, 700), checksum_pending()]
    expected = [part for header, data in offered for part in complete(header, data)]
    with WireProgram(program) as wire:
        one = wire.started_guest(1, SENDING)
        two = wire.started_guest(2)
        wire.wire(1, 1, 2)
        for header, data in offered:
            send(one, header, data)
        got: list[bytes] = []
        while len(got) < len(expected):
            two.driver.fill_rx(step)
            got += two.receive(min(step, len(expected) - len(got)))
        assert got == expected


def test_segments_wait_for_a_stream(program: Path) -> None:
    offered = [to_segment(60_000, 536 + number) for number in range(40)]
    expected = [part for header, data in offered for part in complete(header, data)]
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        guest = wire.started_guest(2, SENDING)
        wire.wire(1, 1, 2)
        got: list[bytes] = []
        for header, data in offered:
            until(lambda: guest.driver.rings[1].free > 64 or guest.driver.rings[1].take_used())
            send(guest, header, data)
        while len(got) < len(expected):
            got.append(stream.receive())
        assert got == expected
        assert wire.stats(1).drops == {}


def test_header_that_does_not_fit_is_counted(program: Path) -> None:
    header, data = checksum_pending()
    with WireProgram(program) as wire, Stream(wire, 1) as stream:
        guest = wire.started_guest(2, SENDING)
        wire.wire(1, 1, 2)
        send(guest, HEADER.pack(1, 0, 0, 0, len(data), 0), data)
        send(guest, HEADER.pack(1, 1, 0, 0, 34, 16), data)
        send(guest, header, data)
        assert [stream.receive()] == complete(header, data)
        assert wire.stats(1).bad_offload == 2


def test_hub_completes_for_each_port(program: Path) -> None:
    header, data = to_segment(3000, 1000)
    with WireProgram(program) as wire, Stream(wire, 1) as one, Stream(wire, 2) as two:
        guest, taker = wire.started_guest(3, SENDING), wire.started_guest(4, TAKING)
        wire.wire(1, 1, 2, 3, 4)
        taker.driver.fill_rx(8)
        send(guest, header, data)
        expected = complete(header, data)
        assert one.receive_all(len(expected)) == expected
        assert two.receive_all(len(expected)) == expected
        assert taker.receive(1) == [data]


@pytest.mark.parametrize(
    ("offered", "turns"),
    [
        ((NOTHING, frame(1)), 1),
        (to_segment(60_000, 1448), 8),
        (to_segment(60_000, 48), 32),
        (to_segment(1280, 1), 32),
    ],
)
def test_many_segments_end_the_turn(program: Path, offered: tuple[bytes, bytes], turns: int) -> None:
    """A guest whose frames become a thousand segments each does not hold up the other wires for 32 of them. The
    receiver is interrupted once in each turn."""
    header, data = offered
    with WireProgram(program) as wire:
        guest, taker = wire.started_guest(1, SENDING), wire.started_guest(2, TAKING)
        taker.driver.fill_rx(32, size=61_000)
        taker.driver.rings[0].calls()
        for _ in range(32):
            guest.driver.queue_tx(data, 0, header)
        guest.driver.rings[1].publish()
        wire.wire(1, 1, 2)
        taker.receive(32)
        wire.stats(1)
        assert taker.driver.rings[0].calls() == turns

"""Frames between two guests through vnic-wire: every layout of rings, both ways, in order, none lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tests.fakes.wire_program import PLAIN, Flow, Sink, WireProgram, frame, until

from vnic.nic.virtio_net import features as net
from vnic.protocol.vhost_user import messages as vu
from vnic.virtio.features import INDIRECT_DESC, VERSION_1

LEGACY = vu.F_PROTOCOL_FEATURES | INDIRECT_DESC
"""No VERSION_1 and no mergeable buffers: a header of 10 bytes."""


@pytest.mark.parametrize(
    ("features", "header_bytes"),
    [
        (PLAIN, 12),
        (VERSION_1 | vu.F_PROTOCOL_FEATURES, 12),
        (LEGACY | net.MRG_RXBUF, 12),
        (LEGACY, 10),
    ],
)
def test_frames_pass_both_ways(program: Path, features: int, header_bytes: int) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(features, header_bytes=header_bytes)
        one.driver.fill_rx(8)
        two.driver.fill_rx(8)
        one.send(frame(1), frame(2, 1514))
        assert two.receive(2) == [frame(1), frame(2, 1514)]
        two.send(frame(3))
        assert one.receive(1) == [frame(3)]


def test_two_header_formats_on_one_wire(program: Path) -> None:
    with WireProgram(program) as wire:
        old = wire.started_guest(1, LEGACY, header_bytes=10)
        new = wire.started_guest(2, PLAIN)
        wire.wire(1, 1, 2)
        old.driver.fill_rx(2)
        new.driver.fill_rx(2)
        old.send(frame(1))
        new.send(frame(2))
        assert new.receive(1) == [frame(1)]
        assert old.receive(1) == [frame(2)]


@pytest.mark.parametrize("size", [14, 15, 16, 17, 31, 32, 33, 60, 64, 128, 255, 256, 257, 272, 273, 1514])
def test_every_length_arrives_whole(program: Path, size: int) -> None:
    content = frame(1, 14) + bytes(at & 0xFF for at in range(size - 14))
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(1)
        one.send(content[:size])
        assert two.receive(1) == [content[:size]]


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("cuts", [[12], [5, 12, 20], [1, 2, 3, 11, 13, 26, 27]])
def test_chains_of_any_shape_are_sent(program: Path, cuts: list[int], indirect: bool) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(1)
        packet = bytes(12) + frame(1, 300)
        address = one.memory.alloc(len(packet))
        one.memory.write(address, packet)
        ends = [*cuts, len(packet)]
        begins = [0, *cuts]
        ring = one.driver.rings[1]
        ring.add(
            [(address + begin, end - begin) for begin, end in zip(begins, ends, strict=True)],
            indirect=indirect,
        )
        ring.publish()
        assert two.receive(1) == [frame(1, 300)]


@pytest.mark.parametrize("indirect", [False, True])
def test_chains_of_any_shape_are_filled(program: Path, indirect: bool) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        address = two.memory.alloc(2048)
        cuts = [0, 3, 12, 13, 100, 2048]
        ring = two.driver.rings[0]
        parts = [(address + begin, end - begin) for begin, end in itertools.pairwise(cuts)]
        ring.add([], parts, indirect=indirect)
        ring.publish()
        one.send(frame(1, 700))
        until(lambda: ring.used_idx == 1)
        ((_, written),) = ring.take_used()
        assert two.memory.read(address, written) == bytes(10) + b"\x01\x00" + frame(1, 700)


def test_long_frame_is_spread_over_mergeable_buffers(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(rx_bytes=1000)
        two.driver.fill_rx(70)
        one.send(frame(1, 65000), frame(2))
        assert two.receive(2) == [frame(1, 65000), frame(2)]


def test_long_frame_without_mergeable_buffers_is_dropped(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(VERSION_1 | vu.F_PROTOCOL_FEATURES)
        two.driver.fill_rx(4)
        one.send(frame(1, 4000), frame(2))
        assert two.receive(1) == [frame(2)]
        assert wire.stats(2).too_long == 1


def test_frame_longer_than_a_whole_ring_is_dropped(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(rx_bytes=64, size=8)
        two.driver.fill_rx(8)
        one.send(frame(1, 1514), frame(2))
        assert two.receive(1) == [frame(2)]
        assert wire.stats(2).too_long == 1


@pytest.mark.parametrize("spin_us", [0, 50])
@pytest.mark.parametrize("size", [60, 1514])
def test_nothing_is_lost_while_rings_run_full(program: Path, size: int, spin_us: int) -> None:
    with WireProgram(program, spin_us=spin_us) as wire:
        one, two = wire.joined(size=16)
        flow, sink = Flow(one, size), Sink(two, 8)
        while flow.sent < 3000:
            flow.push(7)
            sink.take()
        until(lambda: len(sink.take()) >= flow.sent)
        assert sink.frames == [frame(number, size) for number in range(flow.sent)]
        until(lambda: one.driver.rings[1].used_idx == flow.sent & 0xFFFF)


def test_frames_wait_for_room_and_go_on_when_there_is(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(2)
        one.send(*(frame(number) for number in range(5)))
        assert two.receive(2) == [frame(0), frame(1)]
        until(lambda: not two.driver.rings[0].used_flags)
        assert one.driver.rings[1].used_idx == 2, "the others stay in the sender's ring"
        two.driver.fill_rx(3)
        assert two.receive(3) == [frame(2), frame(3), frame(4)]
        assert wire.stats(2).no_room == 0


def test_merged_frame_waits_until_all_its_buffers_are_there(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(rx_bytes=500)
        two.driver.fill_rx(2)
        one.send(frame(1, 1514))
        until(lambda: not two.driver.rings[0].used_flags)
        assert two.driver.rings[0].used_idx == 0
        two.driver.fill_rx(2)
        assert two.receive(1) == [frame(1, 1514)]


def test_queue_pairs_go_to_pairs_of_the_peer(program: Path) -> None:
    with WireProgram(program) as wire:
        many = wire.started_guest(1, pairs=4)
        few = wire.started_guest(2, pairs=2)
        wire.wire(1, 1, 2)
        for pair in range(2):
            few.driver.fill_rx(4, pair)
        for pair in range(4):
            many.driver.fill_rx(4, pair)
            many.send(frame(pair), pair=pair)
        for pair in range(2):
            assert sorted(few.receive(2, pair)) == [frame(pair), frame(pair + 2)]
            few.send(frame(10 + pair), pair=pair)
            assert many.receive(1, pair) == [frame(10 + pair)]
        assert wire.stats(1).queues == 4


def test_only_enabled_pairs_receive(program: Path) -> None:
    with WireProgram(program) as wire:
        one = wire.started_guest(1, pairs=2)
        two = wire.started_guest(2, pairs=2)
        two.client.enable(two.driver.rings[2], False)
        two.sync()
        wire.wire(1, 1, 2)
        two.driver.fill_rx(2)
        one.send(frame(1), pair=1)
        assert two.receive(1) == [frame(1)]
        assert wire.stats(2).queues == 1


def test_disabled_ring_returns_its_chains_unsent(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(2)
        one.client.enable(one.driver.rings[1], False)
        one.sync()
        one.send(frame(1))
        until(lambda: one.driver.rings[1].used_idx == 1)
        one.client.enable(one.driver.rings[1])
        one.sync()
        one.send(frame(2))
        assert two.receive(1) == [frame(2)]


def test_indices_wrap_around(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.guest(1, size=16), wire.guest(2, size=16)
        for guest in (one, two):
            for ring in guest.driver.rings:
                start = 0xFFF0
                ring.avail_idx = ring.last_used = start
                guest.memory.write(ring.avail + 2, start.to_bytes(2, "little"))
                guest.memory.write(ring.used + 2, start.to_bytes(2, "little"))
            guest.start()
        wire.wire(1, 1, 2)
        flow, sink = Flow(one), Sink(two, 8)
        while flow.sent < 100:
            flow.push(5)
            sink.take()
        until(lambda: len(sink.take()) >= flow.sent)
        assert sink.frames == [frame(number) for number in range(flow.sent)]


@pytest.mark.parametrize(("size", "cause"), [(13, "too_short"), (1515, "too_long")])
def test_frames_of_wrong_length_are_dropped_and_counted(program: Path, size: int, cause: str) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(max_frame=1514)
        two.driver.fill_rx(4)
        one.send(frame(1), frame(2, 1515)[:size], frame(3))
        assert two.receive(2) == [frame(1), frame(3)]
        assert getattr(wire.stats(1), cause) == 1
        assert wire.stats(1).frames_in == wire.stats(2).frames_out == 2


def test_bytes_and_frames_are_counted(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(4)
        one.send(frame(1, 100), frame(2, 200))
        two.receive(2)
        sent, received = wire.stats(1), wire.stats(2)
        assert (sent.frames_in, sent.bytes_in, sent.frames_out) == (2, 300, 0)
        assert (received.frames_out, received.bytes_out, received.frames_in) == (2, 300, 0)
        assert not sent.drops
        assert not received.drops

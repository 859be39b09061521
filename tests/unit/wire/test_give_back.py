"""Rings are taken back from vnic-wire, and handed over again, at the exact index: no frame lost, none doubled."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from tests.fakes.wire_program import PLAIN, Flow, Sink, WireGuest, WireProgram, frame, until

from vnic.dataplane.wire.messages import PortLost
from vnic.protocol.vhost_user import messages as vu


def hand_over(guest: WireGuest, bases: list[int]) -> None:
    """Once more, on the same connection; enabled first, so that no frame is thrown away."""
    for index, base in zip(guest.data_rings, bases, strict=True):
        ring = guest.driver.rings[index]
        guest.client.set_up_ring(ring, base)
        guest.client.enable(ring)
        guest.client.send_u64(vu.SET_VRING_KICK, ring.index, [ring.kick_fd])
    guest.sync()


def test_base_is_the_used_index_and_the_ring_rests(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(8)
        one.send(frame(0), frame(1), frame(2))
        two.receive(3)
        until(lambda: one.driver.rings[1].used_idx == 3)
        assert one.take_back() == [0, 3]
        assert two.take_back() == [3, 0]
        assert not one.driver.rings[1].used_flags, "the next user of the ring may need kicks"
        one.send(frame(3))
        assert wire.stats(1).frames_in == 3
        assert one.driver.rings[1].used_idx == 3


def test_chains_that_wait_for_room_stay_with_the_driver(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(1)
        one.send(*(frame(number) for number in range(4)))
        two.receive(1)
        until(lambda: not two.driver.rings[0].used_flags)
        assert one.take_back() == [0, 1]
        two.driver.fill_rx(3)
        hand_over(one, [0, 1])
        assert two.receive(3) == [frame(1), frame(2), frame(3)]


@pytest.mark.parametrize("spin_us", [0, 50])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_doubled_while_rings_come_and_go(program: Path, seed: int, spin_us: int) -> None:
    """The sender's rings come and go at any time; the receiver's only while its wire is held."""
    random_ = random.Random(seed)
    with WireProgram(program, spin_us=spin_us) as wire:
        one, two = wire.joined(size=64)
        flow, sink = Flow(one), Sink(two, 32)
        for _ in range(60):
            for _ in range(random_.randrange(6)):
                flow.push(random_.randrange(40))
                sink.take()
            if random_.random() < 0.5:
                bases = one.take_back()
                assert bases[1] == one.driver.rings[1].used_idx
                flow.push(5)
                hand_over(one, bases)
            else:
                wire.wire(1, 1)
                bases = two.take_back()
                assert bases[0] == two.driver.rings[0].used_idx
                flow.push(5)
                sink.take()
                hand_over(two, bases)
                wire.wire(1, 1, 2)
        until(lambda: len(sink.take()) >= flow.sent)
        assert sink.frames == [frame(number) for number in range(flow.sent)]
        assert not wire.stats(1).drops
        assert not wire.stats(2).drops


def test_wires_change_while_frames_flow(program: Path) -> None:
    """A port moves between wires on two workers, and its frames follow."""
    with WireProgram(program, workers=2) as wire:
        one, two, three = (wire.started_guest(number, size=64) for number in (1, 2, 3))
        flow = Flow(one)
        sinks = [Sink(two, 60), Sink(three, 60)]
        for turn in range(40):
            wire.wire(turn % 2, 1, 2 + turn % 2)
            flow.push(30)
            until(lambda: sum(len(sink.take()) for sink in sinks) >= flow.sent)
        numbers = sorted(int.from_bytes(each[14:18], "big") for sink in sinks for each in sink.frames)
        assert numbers == list(range(flow.sent))
        for sink in sinks:
            assert sink.frames == sorted(sink.frames), "in order"


def test_new_program_goes_on_where_a_killed_one_stopped(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        flow, sink = Flow(one), Sink(two, 128)
        flow.push(50)
        until(lambda: len(sink.take()) == 50)
        until(lambda: one.driver.rings[1].used_idx == 50)
        wire.child.send_signal(signal.SIGKILL)
        wire.child.wait()
        with WireProgram(program) as again:
            for guest in (one, two):
                other = again.guest(guest.port)
                guest.client.close()
                guest.client.wire = other.client.wire
                guest.start(PLAIN)
            again.wire(1, 1, 2)
            flow.push(50)
            until(lambda: len(sink.take()) == 100)
            assert sink.frames == [frame(number) for number in range(100)]


def test_memory_table_is_replaced_while_frames_flow(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(size=64)
        flow, sink = Flow(one), Sink(two, 32)
        for _ in range(50):
            flow.push(20)
            one.client.set_memory()
            sink.take()
            two.client.set_memory()
        until(lambda: len(sink.take()) >= flow.sent)
        assert sink.frames == [frame(number) for number in range(flow.sent)]


def test_new_kick_and_call_descriptors_of_a_running_ring_are_used(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(8)
        tx, rx = one.driver.rings[1], two.driver.rings[0]
        for ring, guest, number in ((tx, one, vu.SET_VRING_KICK), (rx, two, vu.SET_VRING_CALL)):
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            if number == vu.SET_VRING_KICK:
                os.close(ring.kick_fd)
                ring.kick_fd = fd
            else:
                os.close(ring.call_fd)
                ring.call_fd = fd
            guest.client.send_u64(number, ring.index, [fd])
            guest.sync()
        rx.calls()
        one.send(frame(1))
        assert two.receive(1) == [frame(1)]
        until(rx.calls)


def test_the_rings_go_on_when_their_socket_ends(program: Path) -> None:
    """Control was killed, and its successor takes the port back over the channel."""
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(8)
        one.client.send(vu.GET_FEATURES)  # the answer that is not read makes the end a reset
        one.client.close()
        one.send(frame(1))
        assert two.receive(1) == [frame(1)]
        wire.remove(1)
        assert wire.all_stats() == [2]
        assert not [event for event in wire.events if isinstance(event, PortLost)]

"""Kicks and interrupts of vnic-wire's rings, as virtio 1.2 §2.7.7 and §2.7.10 have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.fakes.wire_program import PLAIN, Flow, Sink, WireGuest, WireProgram, frame, until

from vnic.lab.played.driver import DriverRing, fence
from vnic.virtio.features import EVENT_IDX


def avail_event(ring: DriverRing) -> int:
    return int.from_bytes(ring.memory.read(ring.used + 4 + 8 * ring.size, 2), "little")


def set_used_event(ring: DriverRing, index: int) -> None:
    ring.memory.write(ring.avail + 4 + 2 * ring.size, (index & 0xFFFF).to_bytes(2, "little"))


def publish(ring: DriverRing) -> bool:
    """As a driver with EVENT_IDX: kick only if the device asked for it. Returns whether it did."""
    before = int.from_bytes(ring.memory.read(ring.avail + 2, 2), "little")
    ring.publish(kick=False)
    fence()
    wanted = (ring.avail_idx - avail_event(ring) - 1) & 0xFFFF < (ring.avail_idx - before) & 0xFFFF
    if wanted:
        os.eventfd_write(ring.kick_fd, 1)
    return wanted


def asleep(guest: WireGuest) -> None:
    """Wait until the program waits for kicks of the transmit ring."""
    ring = guest.driver.rings[1]
    until(lambda: ring.used_idx == ring.avail_idx and not ring.used_flags)


def test_idle_ring_asks_for_kicks(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        two.driver.fill_rx(2)
        asleep(one)
        one.send(frame(1))
        two.receive(1)
        asleep(one)
        one.send(frame(2))
        two.receive(1)


def test_full_ring_asks_for_kicks_and_a_ring_with_room_does_not(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        ring = two.driver.rings[0]
        two.driver.fill_rx(1)
        one.send(frame(1))
        two.receive(1)
        assert ring.used_flags, "nothing waits for room"
        one.send(frame(2))
        until(lambda: not ring.used_flags)
        two.driver.fill_rx(1)
        two.receive(1)
        assert ring.used_flags


def test_no_interrupt_where_the_driver_wants_none(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined()
        for ring in (two.driver.rings[0], one.driver.rings[1]):
            ring.set_no_interrupt(True)
            ring.calls()
        two.driver.fill_rx(4)
        one.send(frame(1))
        two.receive(1)
        asleep(one)
        assert not two.driver.rings[0].calls()
        assert not one.driver.rings[1].calls()
        two.driver.rings[0].set_no_interrupt(False)
        one.send(frame(2))
        two.receive(1)
        until(two.driver.rings[0].calls)


def test_frames_of_a_batch_come_with_one_interrupt(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.started_guest(1), wire.started_guest(2)
        two.driver.fill_rx(32)
        for number in range(32):
            one.driver.queue_tx(frame(number))
        one.driver.rings[1].publish()
        two.driver.rings[0].calls()
        wire.wire(1, 1, 2)  # a port is not polled before it is in a wire
        two.receive(32)
        asleep(one)
        assert two.driver.rings[0].calls() == 1


def test_sent_frames_of_many_turns_come_with_few_interrupts(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.started_guest(1, size=1024), wire.started_guest(2, size=1024)
        two.driver.fill_rx(1024)
        for number in range(1024):
            one.driver.queue_tx(frame(number))
        one.driver.rings[1].publish()
        one.driver.rings[1].calls()
        wire.wire(1, 1, 2)  # from here on, 16 turns of 64 frames
        two.receive(1024)
        asleep(one)
        calls = 0

        def told() -> bool:
            nonlocal calls
            calls += one.driver.rings[1].calls()
            return calls > 0

        until(told)
        wire.stats(1)  # nothing is owed while control has the worker's lock
        calls += one.driver.rings[1].calls()
        assert calls <= 8


@pytest.mark.parametrize("spin_us", [0, 50])
def test_sender_that_waits_for_its_interrupt_gets_one(program: Path, spin_us: int) -> None:
    """For each frame, with EVENT_IDX: a driver whose ring is full sends nothing before it."""
    with WireProgram(program, spin_us=spin_us) as wire:
        one, two = wire.joined(PLAIN | EVENT_IDX)
        two.driver.fill_rx(64)
        ring = one.driver.rings[1]
        for number in range(64):
            set_used_event(ring, number)
            one.driver.queue_tx(frame(number))
            publish(ring)
            until(ring.calls)
            assert ring.used_idx == number + 1
        two.receive(64)


@pytest.mark.parametrize("spin_us", [0, 50])
def test_event_idx_flow_loses_no_wake_up(program: Path, spin_us: int) -> None:
    """Both sides rely on the other's event index: a frame that waits for a kick that does not come would hang."""
    with WireProgram(program, spin_us=spin_us) as wire:
        one, two = wire.joined(PLAIN | EVENT_IDX, size=32)
        flow, sink = Flow(one, publish=publish), Sink(two, 8, publish=publish)
        turn = 0
        while flow.sent < 3000:
            turn += 1
            flow.push(1 + turn % 5)
            if turn % 3:
                sink.take()
        until(lambda: len(sink.take()) == flow.sent)
        assert sink.frames == [frame(number) for number in range(flow.sent)]


def test_used_event_decides_about_interrupts(program: Path) -> None:
    with WireProgram(program) as wire:
        one, two = wire.joined(PLAIN | EVENT_IDX)
        rx = two.driver.rings[0]
        for _ in range(16):
            rx.add([], [(two.memory.alloc(256), 256)])
        publish(rx)
        set_used_event(rx, 0)
        one.driver.queue_tx(frame(0))
        publish(one.driver.rings[1])
        until(lambda: rx.used_idx == 1)
        until(rx.calls)
        set_used_event(rx, 2)
        for expected in (2, 3):
            one.driver.queue_tx(frame(expected))
            publish(one.driver.rings[1])
            until(lambda expected=expected: rx.used_idx == expected)  # type: ignore[misc]
            asleep(one)
            if expected == 2:
                assert not rx.calls(), "the driver asked for the third"
        until(rx.calls)


def test_pairs_of_rings_share_one_worker_without_starving(program: Path) -> None:
    with WireProgram(program, workers=2) as wire:
        guests = [wire.started_guest(number) for number in range(1, 5)]
        wire.wire(1, 1, 2)
        wire.wire(2, 3, 4)
        flows = [Flow(guests[0]), Flow(guests[2])]
        sinks = [Sink(guests[1], 64), Sink(guests[3], 64)]
        while min(flow.sent for flow in flows) < 2000:
            for flow, sink in zip(flows, sinks, strict=True):
                flow.push(32)
                sink.take()
        for flow, sink in zip(flows, sinks, strict=True):
            until(lambda flow=flow, sink=sink: len(sink.take()) == flow.sent)  # type: ignore[misc]
            assert sink.frames == [frame(number) for number in range(flow.sent)]

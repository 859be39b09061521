"""Tests of the loop's lag: turns are counted by length, over a window, and an idle loop counts none."""

from __future__ import annotations

import asyncio
import socket

import pytest

from vnic.observe.lag import (
    HALF_WINDOW_S,
    MOST_EVENTS,
    Lag,
    LagLoop,
    _bucket,
    _upper_edge,
)


class Clock:
    """A clock in nanoseconds that only the test advances."""

    def __init__(self) -> None:
        self.now = 1

    def __call__(self) -> int:
        return self.now


def turn(lag: Lag, clock: Clock, micros: int) -> None:
    began = clock.now
    clock.now += micros * 1000
    lag.add(began, clock.now)


@pytest.mark.parametrize("ns", [0, 1, 7, 8, 15, 16, 17, 1000, 123_456, 50_000_000, 1 << 40])
def test_bucket_is_at_most_an_eighth_wide(ns: int) -> None:
    edge = _upper_edge(_bucket(ns))
    assert ns <= edge <= ns + ns / 8
    assert _bucket(edge) == _bucket(ns)
    assert _bucket(edge + 1) == _bucket(ns) + 1


def test_percentiles() -> None:
    clock = Clock()
    lag = Lag(clock)
    assert lag.summary().turns == 0
    for micros in range(1, 101):
        turn(lag, clock, micros)
    summary = lag.summary()
    assert summary.turns == 100
    assert 50 <= summary.p50_us <= 57
    assert 99 <= summary.p99_us <= summary.max_us
    assert summary.max_us == 100


def test_reset_drops_turns() -> None:
    clock = Clock()
    lag = Lag(clock)
    turn(lag, clock, 900)
    lag.reset()
    assert lag.summary().turns == 0


def test_old_turns_leave_the_window() -> None:
    clock = Clock()
    lag = Lag(clock)
    turn(lag, clock, 900)
    clock.now += HALF_WINDOW_S * 1_000_000_000
    turn(lag, clock, 5)
    assert lag.summary().max_us == 900, "the half before counts too"
    clock.now += HALF_WINDOW_S * 1_000_000_000
    assert lag.summary().max_us == 5
    clock.now += 10 * HALF_WINDOW_S * 1_000_000_000
    assert lag.summary().turns == 0, "old turns are not reported after a long silence"


def test_turn_lasts_from_wait_to_wait() -> None:
    clock = Clock()
    loop = LagLoop(Lag(clock))

    async def main() -> None:
        clock.now += 70_000_000
        await asyncio.sleep(0)
        clock.now += 2_000_000

    try:
        loop.run_until_complete(main())
        assert loop.lag.summary().max_us == 70_000
    finally:
        loop.close()


def test_idle_loop_makes_no_turns() -> None:
    loop = LagLoop()
    try:
        loop.run_until_complete(asyncio.sleep(0.05))
        assert loop.lag.summary().turns <= 4
    finally:
        loop.close()


def test_turn_has_a_bounded_number_of_events() -> None:
    """Each of 200 sockets is served, and a timer that is due waits for 64 of them at the most."""
    loop = LagLoop()
    pairs = [socket.socketpair() for _ in range(200)]
    served: list[int] = []
    until_timer: list[int] = []

    def serve(number: int) -> None:
        served.append(number)  # it stays readable, as that of a guest which sends on and on
        if len(served) == 1:
            loop.call_soon(lambda: until_timer.append(len(served)))
        if set(served) == set(range(200)):
            loop.stop()

    for number, (ours, theirs) in enumerate(pairs):
        theirs.send(b"x")
        loop.add_reader(ours, serve, number)
    loop.run_forever()
    assert until_timer[0] <= MOST_EVENTS
    assert len(served) <= 2 * 200 + MOST_EVENTS
    for ours, theirs in pairs:
        loop.remove_reader(ours)
        ours.close()
        theirs.close()
    loop.close()

"""The time limit of a peer's next answer: one timer for many limits, and none that a busy loop exceeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from vnic.sockets.time_limit import LATE_S, TimeLimit


class Timer:
    """A TimerHandle."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self._when = when
        self.callback = callback
        self.cancelled = False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """A loop whose time the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []
        self.made = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        self.made += 1
        self.timers.append(Timer(when, callback))
        return cast(asyncio.TimerHandle, self.timers[-1])

    def go_to(self, now: float) -> None:
        self.now = now
        due = [timer for timer in self.timers if timer.when() <= now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.when() > now and not timer.cancelled]
        for timer in due:
            timer.callback()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_limit_that_is_set_anew_needs_no_new_timer(clock: Clock) -> None:
    expired: list[float] = []
    limit = TimeLimit(clock, lambda: expired.append(clock.now))
    for at in range(10):
        clock.go_to(100.0 + at / 10)
        limit.set(5.0)
    assert clock.made == 1
    clock.go_to(105.0)
    clock.go_to(105.85)
    assert expired == []
    clock.go_to(105.9)
    assert expired == [105.9]
    assert clock.timers == []


def test_shorter_limit_counts_at_once(clock: Clock) -> None:
    expired: list[float] = []
    limit = TimeLimit(clock, lambda: expired.append(clock.now))
    limit.set(5.0)
    limit.set(1.0)
    clock.go_to(101.0)
    assert expired == [101.0]
    assert clock.timers == []


@pytest.mark.parametrize("end", [TimeLimit.clear, TimeLimit.stop])
def test_limit_that_was_cleared_is_not_exceeded(clock: Clock, end: Callable[[TimeLimit], None]) -> None:
    limit = TimeLimit(clock, lambda: pytest.fail("it expired"))
    limit.set(5.0)
    end(limit)
    clock.go_to(200.0)
    assert clock.timers == []


def test_busy_loop_does_not_exceed_a_peers_limit(clock: Clock) -> None:
    expired: list[float] = []
    limit = TimeLimit(clock, lambda: expired.append(clock.now))
    limit.set(5.0)
    clock.go_to(105.0 + 2 * LATE_S)
    assert expired == [], "the loop was too busy to read the answer"
    clock.go_to(110.0 + 2 * LATE_S)
    assert expired == [clock.now]

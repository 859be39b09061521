"""The time limit of a peer's next answer: one timer for many limits, and none that a busy loop exceeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from vnic.sockets.time_limit import LATE_S, PARTS, TimeLimit

STEP_S = 1 / 64


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
        """As a loop that does nothing until then."""
        self.now = now
        due = [timer for timer in self.timers if timer.when() <= now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.when() > now and not timer.cancelled]
        for timer in due:
            timer.callback()

    def run_to(self, end: float) -> None:
        """As a loop that is idle."""
        for step in range(1 + int((end - self.now) / STEP_S)):
            self.go_to(min(self.now + STEP_S, end) if step else self.now)
        self.go_to(end)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_limit_that_is_set_anew_needs_no_new_timer(clock: Clock) -> None:
    expired: list[float] = []
    limit = TimeLimit(clock, lambda: expired.append(clock.now))
    for at in range(10):
        clock.run_to(100.0 + at / 32)
        limit.set(5.0)
    assert clock.made == 1
    clock.run_to(105.0)
    assert expired == []
    clock.run_to(106.0)
    assert expired == [pytest.approx(100.0 + 9 / 32 + 5.0, abs=PARTS * STEP_S)]
    assert clock.timers == []


def test_shorter_limit_counts_at_once(clock: Clock) -> None:
    expired: list[float] = []
    limit = TimeLimit(clock, lambda: expired.append(clock.now))
    limit.set(500.0)
    limit.set(1.0)
    clock.run_to(102.0)
    assert expired == [pytest.approx(101.0, abs=PARTS * STEP_S)]
    assert clock.timers == []


@pytest.mark.parametrize("end", [TimeLimit.clear, TimeLimit.stop])
def test_limit_that_was_cleared_is_not_exceeded(clock: Clock, end: Callable[[TimeLimit], None]) -> None:
    limit = TimeLimit(clock, lambda: pytest.fail("it expired"))
    limit.set(5.0)
    end(limit)
    clock.run_to(110.0)
    assert clock.timers == []


@pytest.mark.parametrize("turn_s", [2 * LATE_S + 0.5, 5.0, 5.05])
def test_busy_loop_does_not_exceed_a_peers_limit(clock: Clock, turn_s: float) -> None:
    expired: list[float] = []
    limit = TimeLimit(clock, lambda: expired.append(clock.now))
    limit.set(5.0)
    for turn in range(1, 20):
        clock.go_to(100.0 + turn * turn_s)
    assert expired == [], "the loop was too busy to read the answer"
    clock.run_to(clock.now + 6.0)
    assert len(expired) == 1

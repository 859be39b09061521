"""A scheduler whose time moves only when a test moves it; it replaces the asyncio loop for pure code."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class FakeTimer:
    """One scheduled call."""

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeScheduler:
    """`call_soon` and `call_later` with a simulated time in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._calls: list[tuple[float, int, FakeTimer]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> FakeTimer:
        return self.call_later(0.0, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> FakeTimer:
        timer = FakeTimer(callback, args)
        heapq.heappush(self._calls, (self.now + delay, next(self._order), timer))
        return timer

    def cancel_all(self) -> None:
        """Forget all that is scheduled, as when a process ends."""
        self._calls.clear()

    def advance(self, seconds: float = 0.0) -> None:
        """Move time on by `seconds` and run all that has come due, in order."""
        end = self.now + seconds
        while self._calls and self._calls[0][0] <= end:
            due, _, timer = heapq.heappop(self._calls)
            self.now = max(self.now, due)
            if not timer.cancelled:
                timer.callback(*timer.args)
        self.now = end

    def turn(self) -> None:
        """One turn of the loop: what is due now, and not what that schedules for now."""
        due = [each for each in sorted(self._calls) if each[0] <= self.now]
        self._calls = [each for each in self._calls if each not in due]
        heapq.heapify(self._calls)
        for _, _, timer in due:
            if not timer.cancelled:
                timer.callback(*timer.args)

    def run_soon(self, rounds: int = 10_000) -> None:
        """Run the calls that are due now, and those they schedule for now; bounded against loops."""
        for _ in range(rounds):
            if not self._calls or self._calls[0][0] > self.now:
                return
            self.advance(0.0)
        raise AssertionError("calls due now never come to an end")

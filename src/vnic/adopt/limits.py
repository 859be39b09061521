"""What a hostile peer is limited to: Share, of the loop's time, and Newest, of changes that it causes.

`qmp`, `qga` and `nic` use them. What is above a limit waits; nothing is lost but what a newer state replaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVarTuple

SHARE: Final = 0.2
"""The part of the loop's time that one peer may have."""
BURST_S: Final = 0.02
"""What it may have at once beyond that."""

T = TypeVarTuple("T")


class Share:
    """The work that one peer causes, in CPU time, and the pauses that follow from it."""

    def __init__(self) -> None:
        self._debt = 0.0
        self._at = 0.0

    def took(self, seconds: float, now: float) -> float:
        """Its messages took so long; the pause that is due before its next one."""
        self._debt = max(0.0, self._debt - (now - self._at) * SHARE) + seconds
        self._at = now
        return self._debt / SHARE if self._debt > BURST_S else 0.0


class Newest(Generic[*T]):
    """Passes on `count` calls in `seconds`. Of those beyond, the last one is passed on when that time is over."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pass_on: Callable[[*T], None], *, count: int, seconds: float
    ) -> None:
        self._loop = loop
        self._pass_on = pass_on
        self._count = count
        self._seconds = seconds
        self._began = -seconds
        self._calls = 0
        self._waits: tuple[*T] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def call(self, *arguments: *T) -> None:
        now = self._loop.time()
        if self._timer is not None:
            self._waits = arguments
            return
        if now - self._began >= self._seconds:
            self._began, self._calls = now, 0
        self._calls += 1
        if self._calls <= self._count:
            self._pass_on(*arguments)
            return
        self._waits = arguments
        self._timer = self._loop.call_later(self._began + self._seconds - now, self._go_on)

    def forget(self) -> None:
        """What waits is of the past."""
        self._waits = None

    def close(self) -> None:
        self._waits = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go_on(self) -> None:
        self._timer = None
        waits, self._waits = self._waits, None
        if waits is not None:
            self.call(*waits)

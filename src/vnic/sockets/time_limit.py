"""The time limit of a peer's next answer, which is set anew with each answer.

The session of a vhost-user back-end and the channel to vnic-wire have one each. One timer serves many limits: to cancel
one and start another for each message takes as long as the message itself.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable
from typing import Final, Protocol

PARTS: Final = 10
LATE_S: Final = 0.1
"""A limit is measured in parts. One at whose end the loop comes so much too late does not count: it was busy, and may
not have sent the request yet, or not have read the answer."""


class Clock(Protocol):
    """The part of asyncio's event loop that has the time."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> TimerHandle: ...


class TimeLimit:
    """Calls `expired` when the last limit that was set is exceeded, and not cleared or set anew before."""

    __slots__ = ("_clock", "_expired", "_left", "_timer", "_when", "seconds")

    def __init__(self, clock: Clock, expired: Callable[[], None]) -> None:
        self._clock = clock
        self._expired = expired
        self.seconds = 0.0
        """As last set."""
        self._left = 0
        """The parts that have not passed."""
        self._when: float | None = None
        """When the present part ends."""
        self._timer: TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """The limit is in `seconds`, whatever it was before."""
        self.seconds = seconds
        self._left = PARTS
        self._begin_part()

    def _begin_part(self) -> None:
        self._when = when = self._clock.time() + self.seconds / PARTS
        if self._timer is not None and self._timer.when() > when:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._clock.call_at(when, self._look)

    def clear(self) -> None:
        """Nothing is awaited. The timer is left alone: another limit may follow soon."""
        self._when = None

    def stop(self) -> None:
        """No limit follows."""
        self._when = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._when is None:
            return
        late = self._clock.time() - self._when
        if late < 0:
            self._timer = self._clock.call_at(self._when, self._look)
            return
        if late <= LATE_S:
            self._left -= 1
        if self._left:
            self._begin_part()
        else:
            self._when = None
            self._expired()

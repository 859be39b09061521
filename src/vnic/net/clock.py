"""Clock and timers for net/ and the device models, which use no others.

The running program passes its asyncio loop as the `Scheduler`; tests pass one whose time they move.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Timer(Protocol):
    """A scheduled call that can be cancelled."""

    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """The part of asyncio's event loop that net/ and the device models use."""

    def time(self) -> float:
        """Seconds of a monotonic clock, by which `call_later` counts."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Timer: ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of a LinkChange: monotonic for latencies, wall-clock for display."""

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    wall_ns: Callable[[], int] = time.time_ns

"""The processes of a `vnic run --keep`: which one is which, and their deaths."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from tests.processes import children, is_alive

Find = Callable[[int], int | None]
"""A process, by the pid of the supervisor."""
WIRE = "vnic-wire"


def control(supervisor: int) -> int | None:
    """The Python process that the supervisor started."""
    found = [pid for pid, name in children(supervisor).items() if name != WIRE and is_alive(pid)]
    return found[0] if found else None


def wire(supervisor: int) -> int | None:
    """vnic-wire, a child of control, or of the supervisor once that one is dead."""
    found = [
        pid
        for parent in (supervisor, *children(supervisor))
        for pid, name in children(parent).items()
        if name == WIRE and is_alive(pid)
    ]
    return found[0] if found else None


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is dead."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.0005)

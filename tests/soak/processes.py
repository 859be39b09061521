"""The processes of a `vnic run --keep`: which one is which, and their deaths."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

Find = Callable[[int], int | None]
"""A process, by the pid of the supervisor."""
WIRE = "vnic-wire"


def _children(parent: int) -> list[int]:
    """By the list of the kernel, which needs no look at all processes."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        return [int(word) for word in text.split()]
    return []


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def control(supervisor: int) -> int | None:
    """The Python process that the supervisor started."""
    found = [pid for pid in _children(supervisor) if _name(pid) != WIRE and _is_alive(pid)]
    return found[0] if found else None


def wire(supervisor: int) -> int | None:
    """vnic-wire, a child of control, or of the supervisor once that one is dead."""
    parents = [supervisor, *_children(supervisor)]
    found = [pid for parent in parents for pid in _children(parent) if _name(pid) == WIRE and _is_alive(pid)]
    return found[0] if found else None


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is dead."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while _is_alive(pid) and time.monotonic() < end:
        time.sleep(0.0005)

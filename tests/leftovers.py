"""Processes that tests left behind: found by a word in their environment, which all that a test starts inherits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

MARK = "VNIC_TESTS"
PATIENCE_S = 20.0
"""What was told to end may take this long, on a machine that is busy."""

HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Python's own, which live as long as the process that they serve."""


def mark_children() -> None:
    """From now on, whatever this process starts is known as its own."""
    os.environ[MARK] = f"{os.getpid()}-{time.monotonic_ns()}"


def running() -> dict[int, str]:
    """The processes that came from this one through exec, with their command lines."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # another user's, or gone
        if not any(helper in word for word in words for helper in HELPERS):
            found[int(folder.name)] = os.fsdecode(b" ".join(words)).strip()
    return found


def end_all() -> list[str]:
    """Wait for the end of all of them, end by SIGKILL those that stay, and return what these were."""
    deadline = time.monotonic() + PATIENCE_S
    while left := running():
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    return list(left.values())

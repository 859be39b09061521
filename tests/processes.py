"""What /proc says of processes that may end while it is read."""

from __future__ import annotations

import contextlib
from pathlib import Path


def children(parent: int) -> dict[int, str]:
    """The names of its children by their pids: by the kernel's list, which needs no look at all processes.

    A process that is gone has no children; a child that has ended meanwhile is left out.
    """
    found = {}
    with contextlib.suppress(OSError):
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(OSError):
                found[int(pid)] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found


def is_alive(pid: int) -> bool:
    """Whether it runs: a process that has ended and that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False

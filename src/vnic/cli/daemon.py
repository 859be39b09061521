"""`-daemonize`: go on in the background once everything is set up (QEMU's os_daemonize and os_setup_post).

`run` forks here. The first process waits until the second one reports that it runs, so that the exit code tells a
script of a failed start.
"""

from __future__ import annotations

import os

READY = b"\x01"


class Background:
    """This process, forked off; its parent waits for `ready`."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def ready(self) -> None:
        """Tell the parent that the set-up is done."""
        os.write(self._pipe, READY)
        os.close(self._pipe)


def leave_terminal(log: int | None = None) -> None:
    """Let go of the standard files; `log` becomes stderr, for children. The working directory stays: the paths of
    sockets may be relative."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null if log is None or fd < 2 else log, fd)
    if null > 2:
        os.close(null)


def fork_to_background() -> Background | int:
    """In the background process, its Background. In the parent, the exit code, once that process runs or failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        if os.fork():  # no session leader any more: it can never get a terminal again
            os._exit(0)
        return Background(writing)
    os.close(writing)
    os.waitpid(child, 0)
    try:
        # No byte: the other process has ended, and printed the reason on stderr.
        return 0 if os.read(reading, 1) == READY else 1
    finally:
        os.close(reading)

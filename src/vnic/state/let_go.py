"""What becomes of inherited descriptors that no unit takes up."""

from __future__ import annotations

import contextlib
import select
import signal
import time
from collections.abc import Iterable
from typing import Final

from vnic.descriptors import close_fds

KILLED_S: Final = 1.0
"""The longest wait for the end of processes that were killed."""


def let_go(fds: Iterable[int]) -> None:
    """Close them. A process among them (a pidfd) is killed, and its end is waited for: it would go on with rings, taps
    and sockets that another one is given next."""
    fds = list(fds)
    poll = select.poll()
    running = 0
    for fd in fds:
        with contextlib.suppress(OSError):  # it is no pidfd, or the process has ended
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            poll.register(fd, select.POLLIN)
            running += 1
    end = time.monotonic() + KILLED_S
    while running and (ended := poll.poll(max(0.0, end - time.monotonic()) * 1000)):
        for fd, _ in ended:
            poll.unregister(fd)
        running -= len(ended)
    close_fds(fds)

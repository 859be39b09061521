"""Threads that wait for what blocks, beside the loop: `sockets.closers`, `state` and `adopt.domain` make them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable


def thread_beside(name: str, work: Callable[[], None]) -> threading.Thread:
    """One that is not started yet (`start` raises RuntimeError where none can), and does not keep the process. Signals
    go to the main thread: one of them ends calls that block there (see `sockets.unblock`)."""

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        work()

    return threading.Thread(target=run, name=name, daemon=True)

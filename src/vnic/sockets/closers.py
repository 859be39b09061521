"""Closes descriptors whose close(2) may never return, each in a thread of its own beside the loop.

The close of a file on FUSE sends FLUSH to its daemon and waits for the answer, uninterruptibly. `unblock.close` hands
over here what is not known to be harmless; the attachments take no client for a NIC while one of its last is `busy`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter, deque
from typing import Final

MAX_CLOSERS: Final = 128
"""Threads at a time. A NIC has as many as one message carries descriptors, and is refused more until they end."""


class Closers:
    """The threads. Each lives for as long as there is something to close."""

    def __init__(self, limit: int = MAX_CLOSERS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, str]] = deque()
        self._owners: Counter[str] = Counter()
        self._threads = 0

    def close(self, fd: int, owner: str = "") -> None:
        """Close `fd`, now or as soon as a thread is free. `owner` is the NIC that it came by."""
        with self._lock:
            self._waiting.append((fd, owner))
            self._owners[owner] += 1
            if self._threads >= self._limit:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="closer", daemon=True).start()
        except RuntimeError:  # no thread more: the next one that ends, or the next call, sees to it
            with self._lock:
                self._threads -= 1

    def busy(self, owner: str) -> bool:
        """Whether descriptors that came by `owner` are not closed yet."""
        return self._owners[owner] > 0

    @property
    def hanging(self) -> int:
        """How many descriptors are not closed yet."""
        return self._owners.total()

    def _work(self) -> None:
        # The signals are the main thread's: one of them ends calls that wait there (see `unblock`).
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                fd, owner = self._waiting.popleft()
            try:
                os.close(fd)
            except OSError:
                pass  # closed all the same (close(2)), whatever the file system says of it
            with self._lock:
                self._owners[owner] -= 1
                if not self._owners[owner]:
                    del self._owners[owner]


closers: Final = Closers()
"""Those of the process."""

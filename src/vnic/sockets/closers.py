"""Closes descriptors whose close(2) may never return, in threads beside the loop. `unblock.close` calls it.

The close of a file on FUSE sends FLUSH to its daemon and waits for the answer, uninterruptibly. A NIC accepts no client
while a descriptor that came through it is `busy`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from typing import Final

from vnic.threads import thread_beside

MAX_CLOSERS: Final = 128
"""The most threads at a time. One message of a NIC carries at most as many descriptors; the NIC refuses more until they
are closed."""


class Closers:
    """The threads. A thread ends when no descriptor waits for it."""

    def __init__(self, limit: int = MAX_CLOSERS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, str]] = deque()
        self._owners: Counter[str] = Counter()
        self._threads = 0

    def close(self, fd: int, owner: str = "") -> None:
        """Close `fd`, now or when a thread is free. `owner` is the NIC that received it."""
        with self._lock:
            self._waiting.append((fd, owner))
            self._owners[owner] += 1
            if self._threads >= self._limit:
                return
            self._threads += 1
        try:
            thread_beside("closer", self._work).start()
        except RuntimeError:  # no thread can start: the next thread that ends, or the next call, closes it
            with self._lock:
                self._threads -= 1

    def busy(self, owner: str) -> bool:
        """Whether descriptors of `owner` are still open."""
        return self._owners[owner] > 0

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                fd, owner = self._waiting.popleft()
            try:
                os.close(fd)
            except OSError:
                pass  # close(2) releases the descriptor even if the file system reports an error
            with self._lock:
                self._owners[owner] -= 1
                if not self._owners[owner]:
                    del self._owners[owner]


closers: Final = Closers()
"""The one instance of the process."""

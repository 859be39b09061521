"""A pipe in front of a socket: what this process has said and the peer has not been given yet.

Connections of which nothing may be said twice or never write into it and move its bytes on with splice(). The keeper
holds the pipe as well, so that the next process finds in it exactly the bytes that have not left.
"""

from __future__ import annotations

import array
import fcntl
import os
import termios
from typing import Final, NamedTuple

from vnic.descriptors import close_fds

_FLUSH_BYTES: Final = 1 << 20
_FLAGS: Final = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class OutboxHandles(NamedTuple):
    """The ends of the pipe."""

    read: int
    write: int


class Outbox:
    """The pipe of one connection."""

    def __init__(self, handles: OutboxHandles | None = None) -> None:
        """`handles`: those of the process before, which are this one's from now on. Raises OSError if no descriptors
        are left."""
        if handles is None:
            handles = OutboxHandles(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        self.handles = handles
        self._read, self._write = handles

    def put(self, data: bytes) -> int:
        """Write `data`, or as much of it as there is room for; returns the number of bytes. Data of at most 4096 bytes
        (PIPE_BUF) is written as a whole or not at all. Raises OSError other than for lack of room."""
        try:
            return os.write(self._write, data)
        except BlockingIOError:
            return 0

    def flush(self, sock: int) -> int:
        """Move what the socket takes; returns the number of bytes. Raises OSError if the peer has closed."""
        try:
            return os.splice(self._read, sock, _FLUSH_BYTES, flags=_FLAGS)
        except BlockingIOError:  # the pipe is empty, or the socket is full
            return 0

    @property
    def waiting(self) -> int:
        """The number of bytes in the pipe."""
        count = array.array("i", [0])
        fcntl.ioctl(self._read, termios.FIONREAD, count)
        return count[0]

    def close(self) -> None:
        """Drop what has not left."""
        close_fds(self.handles)

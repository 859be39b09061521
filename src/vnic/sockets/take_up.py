"""TakeUp: makes sockets of the descriptors that the process before has left.

Back-ends, chardevs and filters use it in their `restore_kept`. If anything is refused, all descriptors are closed, so
that the user can begin anew.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from vnic.keep import descriptors_of
from vnic.record import RecordError
from vnic.sockets.bind import BoundPath, BoundPathRecord
from vnic.sockets.listener import Listening, ListeningHandles, ListeningRecord


def fileno(sock: socket.socket | None) -> int | None:
    """The descriptor of a socket that there may be."""
    return None if sock is None else sock.fileno()


class TakeUp:
    """Owns `handles` until its block ends; they are those whom they were given to, if it ends without an exception."""

    def __init__(self, handles: object) -> None:
        """`handles`: descriptors, and sequences and mappings of these, nested."""
        self._left = list(descriptors_of(handles))
        self._made: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        for close in self._made:
            close()
        for fd in self._left:
            with suppress(OSError):
                os.close(fd)

    def socket(self, fd: int | None) -> socket.socket | None:
        """The socket, non-blocking. Raises RecordError."""
        if fd is None:
            return None
        try:
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
        except OSError as error:
            raise RecordError("", f"a descriptor is no socket: {error.strerror}") from None
        self.owned((fd,), sock.close)
        return sock

    def listening(self, record: ListeningRecord | None, handles: ListeningHandles | None) -> Listening | None:
        """The listening socket with its path. Raises RecordError."""
        if (record is None) is not (handles is None):
            raise RecordError("listening", "does not go with the descriptors")
        if record is None or handles is None:
            return None
        listening = Listening.taken_up(record, handles)
        self.owned(handles, listening.close)
        return listening

    def path(self, record: BoundPathRecord | None, lock: int | None) -> BoundPath | None:
        """The path that a socket is bound to, with its lock. Raises RecordError."""
        if record is None:
            return None
        try:
            path = BoundPath.taken_up(record, lock)
        except OSError as error:
            raise RecordError("path", f"has no usable lock: {error.strerror}") from None
        self.owned((lock,), path.remove)
        return path

    def owned(self, fds: Sequence[int | None], close: Callable[[], object]) -> None:
        """Something was made of these; `close` closes it."""
        self._left = [fd for fd in self._left if fd not in fds]
        self._made.append(close)

"""The pipe in which replies of a kept connection wait, so that a kill neither repeats nor loses one.

The attachments make one for each `KeptConnection` and for vfio-user's `ExactConnection`."""

from __future__ import annotations

import fcntl
import os
import socket

from vnic.descriptors import Kind, kind_of
from vnic.record import RecordError, require


def new_outbox() -> int:
    """A pipe as one descriptor for both ends. Raises OSError."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.open(f"/proc/self/fd/{reader}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(reader)
        os.close(writer)


def duplicates(sock: int, outbox: int) -> tuple[socket.socket, int]:
    """For a KeptConnection that is restored: duplicates of the descriptors of the process before. Raises RecordError if
    they are none of a connection."""
    require(kind_of(sock) is Kind.SOCKET, "connection", "has no socket")
    flags = fcntl.fcntl(outbox, fcntl.F_GETFL) if kind_of(outbox) is Kind.PIPE else 0
    require(flags & os.O_ACCMODE == os.O_RDWR, "connection", "has no outbox")
    try:
        copy = socket.socket(fileno=os.dup(sock))
        try:
            copy.getpeername()
            return copy, os.dup(outbox)
        except BaseException:
            copy.close()
            raise
    except OSError as error:
        raise RecordError("connection", f"has no usable socket: {error.strerror}") from None

"""Identifies the process at the other end of a UNIX socket (SO_PEERCRED). Monitors and the attachments use it."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

_UCRED: Final = struct.Struct("3i")  # struct ucred of unix(7)


class Credentials(NamedTuple):
    """The credentials of the process that called connect(2) or listen(2)."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    """Raises OSError."""
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def peer_name(sock: socket.socket) -> str:
    """The process at the other end, for a log line."""
    try:
        return f"process {credentials(sock).pid}"
    except OSError:
        return "unknown process"

"""Sockets that were passed to this program, by the number of their descriptor.

Netdevs take over a passed socket (`stream_socket_from_fd`); a monitor uses a duplicate (`socket_of_fd`).
"""

from __future__ import annotations

import os
import socket

from vnic.net.errors import NetError
from vnic.sockets import unblock


def stream_socket_from_fd(fd: int) -> socket.socket:
    """Take over a passed descriptor, non-blocking. It is closed if it is no stream socket. Raises NetError."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        unblock.close(fd)
        raise NetError(f"File descriptor '{fd}' is not a socket") from None
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise NetError(f"File descriptor '{fd}' is not a stream socket")
    sock.setblocking(False)
    return sock


def socket_of_fd(text: str) -> socket.socket:
    """A duplicate of the socket with that number. Raises NetError."""
    try:
        return socket.socket(fileno=os.dup(int(text)))
    except (ValueError, OSError):
        raise NetError(f"File descriptor '{text}' is not a socket") from None

"""Connects without blocking: a Connector tries the addresses of a name, one after another.

Netdevs, chardevs and monitors use it; it reports the result through callbacks.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

from vnic.sockets.address import InetAddress, UnixAddress
from vnic.sockets.resolve import Failed, Resolved, resolve


def set_stream_options(sock: socket.socket, *, keep_alive: bool = False, nodelay: bool = True) -> None:
    """Set the TCP options: no delay for small frames, and probes (SO_KEEPALIVE) if they are enabled."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        if nodelay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if keep_alive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


SO_PASSRIGHTS: Final = 83
"""include/uapi/asm-generic/socket.h, since Linux 6.16."""


def refuse_descriptors(sock: socket.socket) -> None:
    """Have the kernel refuse a peer's descriptors (EPERM), where none are ever wanted. A kernel before 6.16 lets them
    be sent, and closes them when the data with them are received."""
    if sock.family == socket.AF_UNIX:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            pass


class Connector:
    """One attempt to connect. It calls `done(sock)` or `failed(text)` once, unless it is cancelled before."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: InetAddress | UnixAddress,
        done: Callable[[socket.socket], None],
        failed: Failed,
        *,
        targets: Sequence[Resolved] | None = None,
        nodelay: bool = True,
    ) -> None:
        """`targets`: the addresses of `address`, if the caller has looked them up."""
        self._loop = loop
        self._address = address
        self._done = done
        self._failed = failed
        self._sock: socket.socket | None = None
        self._targets: list[Resolved] = []
        self._ended = False
        self._nodelay = nodelay
        self._cancel_resolve: Callable[[], None] | None = None
        if targets is not None:
            self._found(targets)
        else:
            self._cancel_resolve = resolve(
                loop, address, passive=False, found=self._found, failed=self._end_failed
            )

    def cancel(self) -> None:
        self._ended = True
        if self._cancel_resolve is not None:
            self._cancel_resolve()
        self._drop()

    def _found(self, targets: Sequence[Resolved]) -> None:
        if self._ended:
            return
        self._targets = list(targets)
        self._try_next("no address was found")

    def _try_next(self, reason: str) -> None:
        if not self._targets:
            self._end_failed(f"Failed to connect to '{self._name()}': {reason}")
            return
        target = self._targets.pop(0)
        try:
            sock = socket.socket(
                target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
        except OSError as error:
            self._try_next(error.strerror or str(error))
            return
        self._sock = sock
        try:
            sock.connect(target.sockaddr)
        except BlockingIOError as error:
            if error.errno == errno.EINPROGRESS:
                self._loop.add_writer(sock, self._writable, sock)
                return
            # The backlog of the UNIX listener is full.
            self._next_after(error)
            return
        except OSError as error:
            self._next_after(error)
            return
        self._end_done(sock)

    def _next_after(self, error: OSError) -> None:
        self._drop()
        self._try_next(error.strerror or str(error))

    def _writable(self, sock: socket.socket) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._drop()
            self._try_next(os.strerror(code))
        else:
            self._end_done(sock)

    def _end_done(self, sock: socket.socket) -> None:
        self._sock = None
        self._loop.remove_writer(sock)
        self._ended = True
        keep_alive = isinstance(self._address, InetAddress) and self._address.keep_alive
        set_stream_options(sock, keep_alive=keep_alive, nodelay=self._nodelay)
        self._done(sock)

    def _end_failed(self, text: str) -> None:
        self._ended = True
        self._failed(text)

    def _drop(self) -> None:
        if self._sock is not None:
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._sock = None

    def _name(self) -> str:
        """The address as in QEMU's "Failed to connect to '…'"."""
        if isinstance(self._address, UnixAddress):
            return self._address.path
        return f"{self._address.host}:{self._address.port}"

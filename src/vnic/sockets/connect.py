"""Connecting and listening without waiting, for the back-ends on stream sockets.

A Connector tries the addresses that a name stands for, one after another; a Listener serves one peer at a time, as
QEMU's netdevs do. Both tell the outcome through callbacks.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from vnic.backend.options import InetAddress, UnixAddress
from vnic.sockets.address import (
    AddressError,
    Failed,
    Resolved,
    resolve,
)
from vnic.sockets.bind import PRIVATE, BoundPath, bind_path
from vnic.sockets.lock import PathError

LISTEN_BACKLOG = 1
ACCEPT_RETRY_S = 1.0
"""The wait after an accept that failed for want of descriptors or memory."""


def set_stream_options(sock: socket.socket, keep_alive: bool = False) -> None:
    """No delay for small frames; probes where they were asked for."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if keep_alive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class Connector:
    """One attempt to connect. `done(sock)` or `failed(text)` is called once, unless it is cancelled before."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: InetAddress | UnixAddress,
        done: Callable[[socket.socket], None],
        failed: Failed,
    ) -> None:
        self._loop = loop
        self._address = address
        self._done = done
        self._failed = failed
        self._sock: socket.socket | None = None
        self._targets: list[Resolved] = []
        self._ended = False
        self._cancel_resolve = resolve(
            loop, address, passive=False, found=self._found, failed=self._end_failed
        )

    def cancel(self) -> None:
        self._ended = True
        self._cancel_resolve()
        self._drop()

    def _found(self, targets: list[Resolved]) -> None:
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
                self._loop.add_writer(sock, self._writable)
                return
            # A unix listener whose backlog is full.
            self._next_after(error)
            return
        except OSError as error:
            self._next_after(error)
            return
        self._end_done()

    def _next_after(self, error: OSError) -> None:
        self._drop()
        self._try_next(error.strerror or str(error))

    def _writable(self) -> None:
        assert self._sock is not None
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._drop()
            self._try_next(os.strerror(code))
        else:
            self._end_done()

    def _end_done(self) -> None:
        sock, self._sock = self._sock, None
        assert sock is not None
        self._loop.remove_writer(sock)
        self._ended = True
        keep_alive = isinstance(self._address, InetAddress) and self._address.keep_alive
        set_stream_options(sock, keep_alive)
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
        """The address as QEMU's "Failed to connect to '…'" has it."""
        if isinstance(self._address, UnixAddress):
            return self._address.path
        return f"{self._address.host}:{self._address.port}"


class Listening(NamedTuple):
    """A socket that listens, with the path that goes when it is closed."""

    socket: socket.socket
    path: BoundPath | None

    def close(self) -> None:
        self.socket.close()
        if self.path is not None:
            self.path.remove()


def listen_on(targets: list[Resolved], address: InetAddress | UnixAddress, mode: int = PRIVATE) -> Listening:
    """A socket that listens on the first of `targets` where that is possible; else AddressError with QEMU's text for
    the last."""
    failure = AddressError("no address was found")
    for target in targets:
        try:
            return _listen_on(target, address, mode)
        except AddressError as error:
            failure = error
    raise failure


def _listen_on(target: Resolved, address: InetAddress | UnixAddress, mode: int) -> Listening:
    try:
        sock = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise AddressError(f"Failed to create a socket: {error.strerror}") from None
    path = None
    try:
        if isinstance(address, UnixAddress):
            try:
                path = bind_unix(sock, target.sockaddr, address, mode)
            except PathError as error:
                raise AddressError(f"Failed to bind socket to {address.path}: {error}") from None
        else:
            _bind_inet(sock, target, address)
        try:
            sock.listen(LISTEN_BACKLOG)
        except OSError as error:
            raise AddressError(f"Failed to listen on socket: {error.strerror}") from None
    except BaseException:
        Listening(sock, path).close()
        raise
    return Listening(sock, path)


def _bind_inet(sock: socket.socket, target: Resolved, address: InetAddress) -> None:
    """inet_listen_saddr: the first free port from `port` to `to`."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if target.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if address.ipv4 is False else 0)
    host, port, *rest = target.sockaddr
    for candidate in range(port, max(port, address.to or 0) + 1):
        try:
            sock.bind((host, candidate, *rest))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise AddressError(f"Failed to bind socket: {error.strerror}") from None
    raise AddressError(f"Failed to find an available port: {os.strerror(errno.EADDRINUSE)}")


def bind_unix(sock: socket.socket, sockaddr: Any, address: UnixAddress, mode: int) -> BoundPath | None:
    """Bind to a path, by the rule of `vnic.sockets.bind`, or to an abstract name, which has none. Raises PathError."""
    if not address.abstract:
        return bind_path(sock, address.path, mode=mode)
    try:
        sock.bind(sockaddr)
    except OSError as error:
        raise PathError(error.strerror or str(error)) from None
    return None


class Listener:
    """A listening socket that takes one peer, and another after `listen_again`; later callers wait in its backlog.

    QEMU keeps listening to nobody in the same way while it is connected (net_stream_data_listen).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: Listening,
        accepted: Callable[[socket.socket], None],
    ) -> None:
        """`listening` is closed at the end."""
        self._loop = loop
        self._listening = listening
        self._sock = listening.socket
        self._accepted = accepted
        self._timer: asyncio.TimerHandle | None = None
        self.listen_again()

    @property
    def sockaddr(self) -> tuple[int, object]:
        """(family, name) of the listening socket."""
        return self._sock.family, self._sock.getsockname()

    def listen_again(self) -> None:
        """Take the next peer."""
        self._timer = None
        self._loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            # Out of descriptors or memory: the caller is still there, and asking at once again is a busy loop.
            self._loop.remove_reader(self._sock)
            self._timer = self._loop.call_later(ACCEPT_RETRY_S, self.listen_again)
            return
        self._loop.remove_reader(self._sock)
        sock.setblocking(False)
        set_stream_options(sock)
        self._accepted(sock)

    def close(self) -> None:
        """Stop listening and remove the path, if it is still ours."""
        self._loop.remove_reader(self._sock)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._listening.close()

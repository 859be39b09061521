"""Listening sockets, and the Listener that accepts connections from one in the loop.

NICs, netdevs, chardevs and monitors use both. A Listener, as in anyio, passes each connection to its user. A user that
serves one peer at a time pauses it while a peer is connected.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from vnic.record import Record, RecordError, require
from vnic.sockets.address import InetAddress, UnixAddress
from vnic.sockets.bind import PRIVATE, BoundPath, BoundPathRecord, bind_path
from vnic.sockets.connect import set_stream_options
from vnic.sockets.lock import PathError
from vnic.sockets.resolve import AddressError, Resolved, unix_sockaddr

log = logging.getLogger(__name__)

ONE_PEER: Final = 1
"""The backlog of a listener that serves one peer at a time, as in QEMU."""
MANY_PEERS: Final = 16
ACCEPT_RETRY_S: Final = 0.5
"""The delay after an accept that failed for lack of descriptors or memory."""


class Gate(Protocol):
    """Decides whether clients have to wait in the backlog."""

    def delay(self) -> float:
        """The seconds to wait before the next client is accepted, or before the next call; 0: none."""


class ListeningRecord(Record, frozen=True):
    """The state of a Listening."""

    path: BoundPathRecord | None


class ListeningHandles(NamedTuple):
    """The descriptors of a Listening."""

    socket: int
    lock: int | None
    """The locked file of its path."""


class Listening(NamedTuple):
    """A listening socket, and the path that is removed when it is closed."""

    socket: socket.socket
    path: BoundPath | None = None

    def save(self) -> ListeningRecord:
        return ListeningRecord(path=None if self.path is None else self.path.save())

    @property
    def handles(self) -> ListeningHandles:
        """The descriptors that belong to the record, still its own."""
        return ListeningHandles(self.socket.fileno(), None if self.path is None else self.path.lock)

    @classmethod
    def taken_up(cls, record: ListeningRecord, handles: ListeningHandles) -> Listening:
        """The socket of the process whose place this one takes, with the clients in its backlog. Raises RecordError,
        and leaves the descriptors to the caller then."""
        require(record.path is not None or handles.lock is None, "path", "is missing, and there is a lock")
        try:
            sock = socket.socket(fileno=handles.socket)
        except OSError as error:
            raise RecordError("path", f"has no socket: {error.strerror}") from None
        try:
            require(
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), "path", "has no listening socket"
            )
            sock.setblocking(False)
            path = None if record.path is None else BoundPath.taken_up(record.path, handles.lock)
        except OSError as error:
            sock.detach()
            raise RecordError("path", f"has no usable socket or lock: {error.strerror}") from None
        except RecordError:
            sock.detach()
            raise
        return cls(sock, path)

    def dup(self) -> Listening:
        """The same socket for another owner, which does not remove the path."""
        return Listening(self.socket.dup())

    def close(self) -> None:
        self.socket.close()
        if self.path is not None:
            self.path.remove()


def listen_at(path: str, mode: int = PRIVATE, backlog: int = MANY_PEERS) -> Listening:
    """A socket that listens at `path`. Raises AddressError."""
    address = UnixAddress(path=path)
    return listen_on([Resolved(socket.AF_UNIX, unix_sockaddr(address))], address, mode, backlog)


def listen_on_passed(sock: socket.socket, backlog: int = ONE_PEER) -> Listening:
    """Make a passed socket listen, if it does not yet (socket_listen). The socket is closed if it cannot listen. Raises
    AddressError."""
    try:
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise AddressError(f"Failed to listen on fd socket: {error.strerror}") from None
    sock.setblocking(False)
    return Listening(sock, BoundPath.of(sock))


def listen_on(
    targets: Sequence[Resolved],
    address: InetAddress | UnixAddress,
    mode: int = PRIVATE,
    backlog: int = ONE_PEER,
) -> Listening:
    """A socket that listens on the first of `targets` that is usable. Raises AddressError with QEMU's text for the last
    one."""
    failure = AddressError("no address was found")
    for target in targets:
        try:
            return _listen_on(target, address, mode, backlog)
        except AddressError as error:
            failure = error
    raise failure


def _listen_on(target: Resolved, address: InetAddress | UnixAddress, mode: int, backlog: int) -> Listening:
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
            sock.listen(backlog)
        except OSError as error:
            raise AddressError(f"Failed to listen on socket: {error.strerror}") from None
    except BaseException:
        Listening(sock, path).close()
        raise
    return Listening(sock, path)


def _bind_inet(sock: socket.socket, target: Resolved, address: InetAddress) -> None:
    """Bind to the first free port from `port` to `to` (inet_listen_saddr)."""
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
    """Bind to a path, by the rule of `vnic.sockets.bind`, or to an abstract name, which needs no rule. Raises
    PathError."""
    if not address.abstract:
        return bind_path(sock, address.path, mode=mode)
    try:
        sock.bind(sockaddr)
    except OSError as error:
        raise PathError(error.strerror or str(error)) from None
    return None


class Listener:
    """A listening socket in the loop: `accepted(sock)` gets each connection, non-blocking."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: Listening,
        accepted: Callable[[socket.socket], None],
        name: str,
        *,
        gate: Gate | None = None,
        nodelay: bool = True,
    ) -> None:
        """The Listener closes `listening`; `name` is for the log."""
        self._loop = loop
        self._listening = listening
        self._sock = listening.socket
        self._fd = self._sock.fileno()
        self._accepted = accepted
        self._name = name
        self._gate = gate
        self._nodelay = nodelay
        self._paused = False
        self._failing = False
        """Descriptors or memory have run out. The log has one line for it, not one per attempt."""
        self._timer: asyncio.TimerHandle | None = None
        self.resume()

    @property
    def listening(self) -> Listening:
        """What another Listener can continue with."""
        return self._listening

    @property
    def sockaddr(self) -> tuple[int, object]:
        """(family, name) of the listening socket."""
        return self._sock.family, self._sock.getsockname()

    def _readable(self) -> None:
        """Accept one connection, after all other events of this turn. Otherwise, when a VM is killed and restarted, the
        end of its old connection would be processed after the new one was accepted."""
        self._loop.remove_reader(self._fd)
        self._loop.call_soon(self._accept)

    def _accept(self) -> None:
        if self._paused or self._sock.fileno() < 0:
            return
        delay = self._gate.delay() if self._gate is not None else 0.0
        if delay:
            self._retry_in(delay)
            return
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            self.resume()
            return
        except OSError as error:  # EMFILE and similar: an immediate retry would be a busy loop
            if not self._failing:
                self._failing = True
                log.error("%s: cannot accept: %s; trying on", self._name, error.strerror)
            self._retry_in(ACCEPT_RETRY_S)
            return
        self._failing = False
        sock.setblocking(False)
        set_stream_options(sock, nodelay=self._nodelay)
        self._accepted(sock)
        self._retry()

    def _retry_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._retry)

    def _retry(self) -> None:
        if not self._paused:
            self.resume()

    def pause(self) -> None:
        """Accept no connections until `resume`; peers wait in the backlog."""
        self._paused = True
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Accept connections again."""
        self._paused = False
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Stop listening and remove the path, unless another program has replaced it. It may be called again."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        self._listening.close()

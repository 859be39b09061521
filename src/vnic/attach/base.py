"""What every socket that passes descriptors needs: a listening path with its checks, and a connection.

The attachments (vhost-user, vfio-user) and the chardevs of vhost-user back-ends are built on these two; nothing
here knows a protocol.
"""

from __future__ import annotations

import array
import asyncio
import errno
import logging
import os
import socket
import stat
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from vnic.net.errors import NetError
from vnic.protocol.frames import FrameError, close_fds

log = logging.getLogger(__name__)

MAX_PATH_BYTES: Final = 107  # sizeof(sun_path) - 1
PIECES_PER_TURN: Final = 32
"""How often one connection is read before the loop serves the others."""
ACCEPTS_PER_TURN: Final = 8


# --- Paths -------------------------------------------------------------------------------------------------


def check_path(path: str) -> None:
    """Raise NetError, in QEMU's words, for a path that cannot be a UNIX socket's."""
    if not path:
        raise NetError("UNIX socket path is empty")
    if "\0" in path:
        raise NetError("UNIX socket path holds a NUL byte")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise NetError(f"UNIX socket path '{path}' is too long: at most {MAX_PATH_BYTES} bytes")


def bind_path(path: str, *, mode: int = 0o600, backlog: int = 8) -> socket.socket:
    """A non-blocking listening socket at `path`, with the permissions `mode` from its first moment.

    A socket that a dead process left behind is replaced. NetError if something else is there or a process
    still listens.
    """
    check_path(path)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(sock.fileno(), mode)  # Linux unix_bind() gives the path the mode of the socket's inode
        sock.bind(path)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise NetError(f"Failed to bind socket to {path}: {os.strerror(error.errno or 0)}") from None
    return sock


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise NetError(f"Failed to bind socket to {path}: {os.strerror(error.errno or 0)}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise NetError(f"Failed to bind socket to {path}: the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        refused = probe.connect_ex(path)
    if refused != errno.ECONNREFUSED:
        raise NetError(f"Failed to bind socket to {path}: a process listens there already")
    try:
        os.unlink(path)
    except OSError as error:
        raise NetError(f"Failed to remove stale socket {path}: {os.strerror(error.errno or 0)}") from None


def peer_name(sock: socket.socket) -> str:
    """The process at the other end, for a log line."""
    try:
        credentials = array.array("i")
        credentials.frombytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError:
        return "unknown process"
    return f"process {credentials[0]}"


class Listener:
    """A listening socket in the loop: `accepted(sock)` gets each client; `close` removes the path again."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        accepted: Callable[[socket.socket], None],
        *,
        mode: int = 0o600,
    ) -> None:
        """Raises NetError when `path` cannot be listened on."""
        self._loop = loop
        self.path = path
        self._accepted = accepted
        self._sock = bind_path(path, mode=mode)
        found = os.lstat(path)
        self._inode = (found.st_dev, found.st_ino)
        self._paused = False
        loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:  # EMFILE and its kind: the client waits until descriptors are free
                log.error("%s: accept failed: %s", self.path, error)
                self._loop.remove_reader(self._sock)
                self._loop.call_later(0.5, self._retry)
                return
            client.setblocking(False)
            self._accepted(client)
            if self._paused or self._sock.fileno() < 0:  # as a consequence of this client
                return

    def _retry(self) -> None:
        if not self._paused:
            self.resume()

    def pause(self) -> None:
        """Accept nobody until `resume`; who connects meanwhile waits in the backlog."""
        self._paused = True
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)

    def resume(self) -> None:
        """Accept clients (again)."""
        self._paused = False
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._readable)

    def close(self) -> None:
        """Stop listening, and remove the path unless another process has put its own socket there."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        self._sock.close()
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._inode:
                os.unlink(self.path)
        except OSError:
            pass  # somebody removed it already


# --- Connections -------------------------------------------------------------------------------------------


def receive(sock: socket.socket, size: int, max_fds: int) -> tuple[bytes, list[int]]:
    """Read one piece with its descriptors, which the caller owns; b"" at the end of the stream.

    Raises BlockingIOError and the other errors of recvmsg; FrameError, with everything closed, when descriptors
    were cut off (MSG_CTRUNC): the peer sent more than `max_fds`, or this process can open no more.
    """
    flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    data, ancillary, result, _ = sock.recvmsg(size, socket.CMSG_LEN(4 * max_fds), flags)
    if not ancillary and not result & socket.MSG_CTRUNC:
        return data, []
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if result & socket.MSG_CTRUNC:
        close_fds(fds)
        raise FrameError("descriptors were cut off: too many in one message, or no room for more")
    return data, fds.tolist()


class ConnectionUser(Protocol):
    """What a Connection needs of the shell that owns it."""

    @property
    def wanted(self) -> int:
        """Read at most so many bytes with the next piece."""

    def received(self, data: bytes, fds: list[int]) -> None:
        """One piece; the descriptors belong to the callee."""

    def lost(self, reason: str | None) -> None:
        """The connection is closed; `reason` is None at an orderly end of the stream. Called once at most,
        never after `Connection.close`."""


class Connection:
    """A connected stream socket in the loop, for messages with descriptors.

    Nothing is read while something waits to be written, so a peer that does not read its replies stops only
    itself; what may wait is bounded by what one message causes.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, user: ConnectionUser, *, max_fds: int
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._user = user
        self._max_fds = max_fds
        self._output: deque[tuple[bytes, list[int]]] = deque()
        self._paused = False
        self.closed = False
        sock.setblocking(False)
        loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        user = self._user
        for _ in range(PIECES_PER_TURN):
            try:
                data, fds = receive(self._sock, user.wanted, self._max_fds)
            except (BlockingIOError, InterruptedError):
                return
            except FrameError as error:
                self._lose(str(error))
                return
            except OSError as error:
                self._lose(error.strerror or str(error))
                return
            if not data:
                close_fds(fds)
                self._lose(None)
                return
            user.received(data, fds)
            if self.closed or self._paused or self._output:
                return

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Write `data`, now if possible. The descriptors stay the caller's: what has to wait is duplicated."""
        if self.closed or not data:
            return
        if not self._output:
            try:
                sent = self._send_now(data, fds)
            except OSError as error:
                # The loop finds the same error at its next read: a user is never closed from within its own send.
                log.debug("send failed: %s", error)
                self._fail_later(error)
                return
            if sent == len(data):
                return
            if sent:
                data, fds = data[sent:], ()
            self._loop.remove_reader(self._sock)
            self._loop.add_writer(self._sock, self._writable)
        self._output.append((data, [os.dup(fd) for fd in fds]))

    def _send_now(self, data: bytes, fds: Sequence[int]) -> int:
        try:
            if fds:
                return socket.send_fds(
                    self._sock, [data], list(fds), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
                )
            return self._sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return 0

    def _fail_later(self, error: OSError) -> None:
        self._loop.call_soon(self._lose, error.strerror or str(error))

    def _writable(self) -> None:
        while self._output:
            data, fds = self._output[0]
            try:
                sent = self._send_now(data, fds)
            except OSError as error:
                self._lose(error.strerror or str(error))
                return
            if sent < len(data):
                if sent:
                    close_fds(fds)
                    self._output[0] = (data[sent:], [])
                return
            close_fds(fds)
            self._output.popleft()
        self._loop.remove_writer(self._sock)
        if not self._paused:
            self._loop.add_reader(self._sock, self._readable)

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if not self._paused and not self.closed:
            self._paused = True
            self._loop.remove_reader(self._sock)

    def resume(self) -> None:
        """Read again."""
        if self._paused and not self.closed:
            self._paused = False
            if not self._output:
                self._loop.add_reader(self._sock, self._readable)

    def _lose(self, reason: str | None) -> None:
        if not self.closed:
            self.close()
            self._user.lost(reason)

    def half_close(self) -> None:
        """Send nothing more, and read on until the peer closes (vfio-user: QEMU aborts on a sudden full close)."""
        if self.closed:
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster; the next read finds it gone

    def close(self) -> None:
        """Close the socket and drop what was not written; `lost` is not called."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, fds in self._output:
            close_fds(fds)
        self._output.clear()

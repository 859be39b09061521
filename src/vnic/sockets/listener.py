"""Where a VM finds its NIC: a listening UNIX path with its checks.

Both attachments, vhost-user and vfio-user, listen through this; nothing here knows a protocol.
"""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from vnic.attach.gate import Gate
from vnic.memory.address_space import in_units
from vnic.memory.guest import GuestMemory
from vnic.net.errors import NetError
from vnic.sockets.bind import PRIVATE, BoundPath, bind_path
from vnic.sockets.lock import PathError

log = logging.getLogger(__name__)

MAX_PATH_BYTES: Final = 107  # sizeof(sun_path) - 1


def check_path(path: str) -> None:
    """Raise NetError, in QEMU's words, for a path that cannot be a UNIX socket's."""
    if not path:
        raise NetError("UNIX socket path is empty")
    if "\0" in path:
        raise NetError("UNIX socket path holds a NUL byte")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise NetError(f"UNIX socket path '{path}' is too long: at most {MAX_PATH_BYTES} bytes")


def listen_at(path: str, *, mode: int = PRIVATE, backlog: int = 8) -> tuple[socket.socket, BoundPath]:
    """A non-blocking listening socket at `path`, by the rule of `vnic.sockets.bind`. Raises NetError."""
    check_path(path)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:  # no descriptors
        raise NetError(f"Failed to create a socket for {path}: {error.strerror}") from None
    try:
        bound = bind_path(sock, path, mode=mode)
    except PathError as error:
        sock.close()
        raise NetError(f"Failed to bind socket to {path}: {error}") from None
    sock.listen(backlog)
    return sock, bound


def peer_name(sock: socket.socket) -> str:
    """The process at the other end, for a log line."""
    try:
        credentials = array.array("i")
        credentials.frombytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError:
        return "unknown process"
    return f"process {credentials[0]}"


def tell_of_unsealed(memory: GuestMemory, name: str) -> None:
    """Say once, as soon as a VM shares memory that it could truncate, what happens then."""

    def changed() -> None:
        if size := memory.unsealed_bytes:
            memory.on_change.remove(changed)
            log.info(
                "%s: the VM shares %s of memory that is not sealed against shrinking (F_SEAL_SHRINK): it is cut off if"
                " it truncates the file",
                name,
                in_units(size),
            )

    memory.on_change.append(changed)


class Listener:
    """A listening socket in the loop: `accepted(sock)` gets each client; `close` removes the path again."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        accepted: Callable[[socket.socket], None],
        *,
        mode: int = PRIVATE,
        gate: Gate | None = None,
    ) -> None:
        """Raises NetError when `path` cannot be listened on. `gate` may keep clients waiting in the backlog."""
        self._loop = loop
        self.path = path
        self._accepted = accepted
        self._gate = gate
        self._sock, self._bound = listen_at(path, mode=mode)
        self._paused = False
        self._failing = False
        loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        """Accept one client, behind all else that this turn brings: the end of the one before, above all, which
        would be taken for one that is still there when a VM is killed and started again."""
        self._loop.remove_reader(self._sock)
        self._loop.call_soon(self._accept)

    def _accept(self) -> None:
        if self._paused or self._sock.fileno() < 0:
            return
        delay = self._gate.delay() if self._gate is not None else 0.0
        if delay:
            self._loop.call_later(delay, self._retry)
            return
        try:
            client, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            self.resume()
            return
        except OSError as error:  # EMFILE and its kind: the client waits until descriptors are free
            if not self._failing:  # once, not at every attempt
                self._failing = True
                log.error("%s: cannot accept: %s; trying on", self.path, error.strerror)
            self._loop.call_later(0.5, self._retry)
            return
        self._failing = False
        client.setblocking(False)
        self._accepted(client)
        self._retry()

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
        self._bound.remove()

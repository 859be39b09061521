"""Channel: a client's UNIX socket that may not be there yet. `qmp` and `qga` each have one, and make it connect again.

It sends without waiting, up to a bound, and tells its user once of each end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Protocol

from vnic.sockets.address import UnixAddress
from vnic.sockets.connect import Connector, refuse_descriptors
from vnic.sockets.resolve import Resolved, unix_sockaddr

WAITING_MAX_BYTES: Final = 1 << 16
READ_BYTES: Final = 1 << 14
"""Of one turn of the loop."""


class ChannelUser(Protocol):
    """What a channel tells."""

    def connected(self) -> None: ...

    def received(self, data: bytes) -> None: ...

    def ended(self, text: str) -> None:
        """The connection is gone, or could not be made, and why. Not told after `drop`."""


class Channel:
    """One connection after another to one path, and one timer, which a connection's end cancels."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: str, user: ChannelUser, *, closed: str, unread: str
    ) -> None:
        """`closed`, `unread`: what to say of a peer that has closed the connection, or does not read. Raises NetError
        for a path that no socket can have."""
        self.path = path
        self._loop = loop
        self._user = user
        self._closed, self._unread = closed, unread
        self._address = UnixAddress(path=path)
        self._target = Resolved(socket.AF_UNIX, unix_sockaddr(self._address))
        self._connector: Connector | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = bytearray()
        self._reads = False
        self.sock: socket.socket | None = None

    def connect(self) -> None:
        self._connector = Connector(
            self._loop, self._address, self._connected, self._failed, targets=[self._target]
        )

    def drop(self) -> None:
        """End what there is, and the timer."""
        self.cancel_timer()
        if self._connector is not None:
            self._connector.cancel()
            self._connector = None
        if self.sock is not None:
            self.read(False)
            self._loop.remove_writer(self.sock)
            self._waiting.clear()
            self.sock.close()
            self.sock = None

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Call it then, in place of what the timer was set for."""
        self.cancel_timer()
        self._timer = self._loop.call_later(seconds, call)

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self, text: str) -> None:
        """End the connection, if there is one, and tell the user."""
        if self.sock is not None:
            self.drop()
            self._user.ended(text)

    def read(self, on: bool) -> None:
        """Receive, as from `connected` on, or leave what comes to the kernel."""
        if self.sock is None or on is self._reads:
            return
        self._reads = on
        if on:
            self._loop.add_reader(self.sock, self._readable)
        else:
            self._loop.remove_reader(self.sock)

    # -- out ----------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """A peer that does not read is given up."""
        assert self.sock is not None
        if self._waiting:
            if len(self._waiting) + len(data) > WAITING_MAX_BYTES:
                self.end(self._unread)
            else:
                self._waiting += data
            return
        sent = self._try(self.sock, data)
        if sent < len(data):
            self._waiting += data[sent:]
            self._loop.add_writer(self.sock, self._writable)

    def _try(self, sock: socket.socket, data: bytes | bytearray) -> int:
        try:
            return sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._loop.call_soon(self._broken, sock, error.strerror or str(error))
            return len(data)

    def _broken(self, sock: socket.socket, text: str) -> None:
        if sock is self.sock:
            self.end(text)

    def _writable(self) -> None:
        assert self.sock is not None
        del self._waiting[: self._try(self.sock, self._waiting)]
        if not self._waiting:
            self._loop.remove_writer(self.sock)

    # -- in -----------------------------------------------------------------------------------------------------

    def _connected(self, sock: socket.socket) -> None:
        self._connector = None
        refuse_descriptors(sock)
        self.sock = sock
        self.read(True)
        self._user.connected()

    def _failed(self, text: str) -> None:
        self._connector = None
        self._user.ended(text)

    def _readable(self) -> None:
        assert self.sock is not None
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(error.strerror or str(error))
            return
        if data:
            self._user.received(data)
        else:
            self.end(self._closed)

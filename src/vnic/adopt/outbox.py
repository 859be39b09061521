"""Outbox: what is sent on a socket without waiting, up to a bound. `qmp` and `qga` have one for each connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

MAX_BYTES: Final = 1 << 16


class TooMuch(Exception):
    """The peer does not read; `str()` says so."""


class Outbox:
    """The bytes that wait for room in one socket."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, failed: Callable[[str], None]
    ) -> None:
        """`failed` is called, at the latest in the loop's next turn, when the socket is broken."""
        self._loop = loop
        self._sock = sock
        self._failed = failed
        self._waiting = bytearray()
        self._closed = False

    def send(self, data: bytes) -> None:
        """Raises TooMuch."""
        if self._waiting:
            if len(self._waiting) + len(data) > MAX_BYTES:
                raise TooMuch("it does not read its commands")
            self._waiting += data
            return
        sent = self._try(data)
        if sent < len(data):
            self._waiting += data[sent:]
            self._loop.add_writer(self._sock, self._writable)

    def _try(self, data: bytes | bytearray) -> int:
        try:
            return self._sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._loop.call_soon(self._fail, error.strerror or str(error))
            return len(data)

    def _fail(self, text: str) -> None:
        if not self._closed:
            self._failed(text)

    def _writable(self) -> None:
        del self._waiting[: self._try(self._waiting)]
        if not self._waiting:
            self._loop.remove_writer(self._sock)

    def close(self) -> None:
        """The socket is about to be closed."""
        self._closed = True
        self._loop.remove_writer(self._sock)

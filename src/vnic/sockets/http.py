"""A small HTTP server in the loop, for pages that are made on request: GET and HEAD, a few clients, bounded in all.

h11 speaks the protocol. `-metrics` uses it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

import h11

from vnic.sockets.listener import Listener, Listening

log = logging.getLogger(__name__)

MAX_CLIENTS: Final = 32
REQUEST_S: Final = 10.0
"""The time that a client has to send a request, and to read its answer."""
_READ_BYTES: Final = 1 << 14


class Page(NamedTuple):
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200


class Request(NamedTuple):
    path: str
    headers: Mapping[str, str]
    """By lower-case name; of several with one name, the last."""


Handler = Callable[[Request], Awaitable[Page]]
"""Makes the page for one request."""


def plain(status: int, text: str, *headers: tuple[str, str]) -> Page:
    """A page of one line."""
    return Page(f"{text}\n".encode(), "text/plain; charset=utf-8", headers, status)


class HttpServer:
    """Serves pages at one listening socket from its creation to `close`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listening: Listening, handler: Handler, name: str
    ) -> None:
        """`name` is for the log."""
        self._loop = loop
        self._handler = handler
        self._name = name
        self._clients: set[asyncio.Task[None]] = set()
        self.listener = Listener(loop, listening, self._accepted, name)

    async def close(self) -> None:
        """Close all connections, and remove the path."""
        self.listener.close()
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    def _accepted(self, sock: socket.socket) -> None:
        if len(self._clients) >= MAX_CLIENTS:
            sock.close()
            return
        task = self._loop.create_task(self._serve(sock))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, sock: socket.socket) -> None:
        connect = asyncio.open_unix_connection if sock.family == socket.AF_UNIX else asyncio.open_connection
        try:
            reader, writer = await connect(sock=sock, limit=_READ_BYTES)
        except OSError as error:
            log.debug("%s: a client left: %r", self._name, error)
            sock.close()
            return
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError, asyncio.CancelledError) as error:
            log.debug("%s: a client left: %r", self._name, error)
        finally:
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # it does not read
            else:
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of one connection."""
        peer = h11.Connection(h11.SERVER, max_incomplete_event_size=_READ_BYTES)
        while True:
            try:
                async with asyncio.timeout(REQUEST_S):
                    request = await _next_request(peer, reader)
            except h11.RemoteProtocolError as error:
                if peer.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    _answer(peer, writer, plain(error.error_status_hint, str(error)), body=True)
                    await writer.drain()
                return
            if request is None:
                return
            method = request.method.decode("ascii", "replace")
            if method in ("GET", "HEAD"):
                page = await self._page(request)
            else:
                page = plain(405, f"{method} is not allowed here", ("Allow", "GET, HEAD"))
            async with asyncio.timeout(REQUEST_S):
                _answer(peer, writer, page, body=method != "HEAD")
                await writer.drain()
            if peer.our_state is not h11.DONE or peer.their_state is not h11.DONE:
                return
            peer.start_next_cycle()

    async def _page(self, request: h11.Request) -> Page:
        path = request.target.decode("ascii", "replace").partition("?")[0]
        headers = {
            name.decode("ascii", "replace"): value.decode("latin-1") for name, value in request.headers
        }
        try:
            return await self._handler(Request(path, headers))
        except Exception:  # a bug in a page must not end the process
            log.exception("a page could not be made: %a", path)
            return plain(500, "internal error")


async def _next_request(peer: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request once it has come whole, without its body; None: the client is done."""
    request = None
    while True:
        event = peer.next_event()
        if event is h11.NEED_DATA:
            peer.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None


def _answer(peer: h11.Connection, writer: asyncio.StreamWriter, page: Page, *, body: bool) -> None:
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(page.body))),
        ("X-Content-Type-Options", "nosniff"),
        ("Cache-Control", "no-store"),
        *page.headers,
    ]
    parts = [peer.send(h11.Response(status_code=page.status, headers=headers, reason=_reason(page.status)))]
    if body:
        parts.append(peer.send(h11.Data(data=page.body)))
    parts.append(peer.send(h11.EndOfMessage()))
    writer.write(b"".join(part for part in parts if part))


def _reason(status: int) -> bytes:
    """The status in words; RFC 9112 lets it be empty, but people read it."""
    return HTTPStatus(status).phrase.encode()

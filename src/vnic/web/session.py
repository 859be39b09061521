"""A browser's QMP session over its WebSocket: one JSON text a message, both ways, as on any other monitor.

`server` makes one for each browser that has shown the token. Both directions are bounded as in `monitor.connection`:
commands run only as fast as the browser takes the answers, and one that does not even take its events is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from vnic.monitor.connection import OUTPUT_MAX_BYTES, PAUSE_BYTES, REPLIES_PER_TURN, TURN_S, Session
from vnic.monitor.server import Monitors
from vnic.protocol.qmp import ParseError, decode, encode
from vnic.web.connection import Connection

log = logging.getLogger(__name__)

ANSWER_MAX_BYTES: Final = 1 << 24
"""The longest answer: a WebSocket's message is made whole before it is sent."""
TOO_LONG: Final = f"the answer has more than {ANSWER_MAX_BYTES >> 20} MiB: ask for less"

GOING_AWAY: Final = 1001
"""RFC 6455 §7.4.1: the server ends."""
UNSUPPORTED: Final = 1003
"""The same: a message of a type that is not taken."""


class WebSession:
    """One browser, from the accepted handshake to its end. It is a client of the monitors."""

    def __init__(
        self, websocket: WebSocket, session: Session, monitors: Monitors, connection: Connection
    ) -> None:
        self.session = session
        self._websocket = websocket
        self._monitors = monitors
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[tuple[str, int]] = deque()
        """The messages to send, and by how many bytes each counts as an event."""
        self._event_bytes = 0
        self._output_bytes = 0
        self._held: list[str] = []
        """Events that occurred while an answer was made."""
        self._amid_answer = False
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._closed = False

    async def live(self) -> None:
        """Serve the browser until it leaves, or the monitors are closed."""
        self._monitors.join(self)
        writer = self._loop.create_task(self._write())
        try:
            self._put(self.session.greeting().decode())
            await self._read()
            if self._closed:
                await writer
        finally:
            self._closed = True
            writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer
            self._monitors.leave(self)

    # -- in ---------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while not self._closed:
            message = await self._websocket.receive()
            if message["type"] != "websocket.receive":
                return
            text = message.get("text")
            if text is None:
                await self._websocket.close(UNSUPPORTED, "QMP is text")
                return
            await self._run(text.encode("utf-8", "replace") + b"\n")

    async def _run(self, data: bytes) -> None:
        """Run what the browser sent, within the budget of a turn and of unread output."""
        answer: list[str] = []
        size = replies = 0
        turn_ends = self._loop.time() + TURN_S
        for piece in self.session.feed(data):
            if self._closed:
                return
            if self.session.waits_for is not None:
                await asyncio.wait([self.session.waits_for])
                turn_ends = self._loop.time() + TURN_S
                continue
            replies += 1
            size += len(piece)
            if size <= ANSWER_MAX_BYTES:
                answer.append(piece.decode())
            else:
                answer.clear()
            self._amid_answer = not piece.endswith(b"\n")
            if not self._amid_answer:
                self._put("".join(answer) if size <= ANSWER_MAX_BYTES else _too_long(data))
                answer.clear()
                size = 0
                for event in self._held:
                    self._put(event, is_event=True)
                self._held.clear()
                while self._output_bytes > PAUSE_BYTES and not self._closed:
                    self._drained.clear()
                    await self._drained.wait()
            if replies % REPLIES_PER_TURN == 0 or self._loop.time() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = self._loop.time() + TURN_S

    # -- out --------------------------------------------------------------------------------------------------------

    def event(self, message: dict[str, object]) -> None:
        """Send an event to the browser, if its session accepts events."""
        data = self.session.event(message)
        if data is None or self._closed:
            return
        self._event_bytes += len(data.rstrip())
        if self._event_bytes > OUTPUT_MAX_BYTES:
            log.warning("%s does not read its events: disconnected", self.session.who)
            self.cut_off()
        elif self._amid_answer:
            self._held.append(data.decode())
        else:
            self._put(data.decode(), is_event=True)

    def _put(self, text: str, *, is_event: bool = False) -> None:
        text = text.rstrip()
        self._output_bytes += len(text)
        self._outbox.append((text, len(text) if is_event else 0))
        self._filled.set()

    async def _write(self) -> None:
        """Send the messages as fast as the browser takes them."""
        try:
            while not (self._closed and not self._outbox):
                while self._outbox:
                    text, as_event = self._outbox.popleft()
                    await self._websocket.send_text(text)
                    self._event_bytes -= as_event
                    self._output_bytes -= len(text)
                    if self._output_bytes <= PAUSE_BYTES:
                        self._drained.set()
                self._filled.clear()
                if not self._closed:
                    await self._filled.wait()
            await self._websocket.close(GOING_AWAY, "vnic ends")
        except (OSError, WebSocketDisconnect, RuntimeError) as error:
            log.debug("%s left: %r", self.session.who, error)
        finally:
            self._end()

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The monitors are closed: send what waits, and close the WebSocket."""
        self._end()

    def cut_off(self) -> None:
        """End it now; what waits is lost."""
        self._end()
        self._outbox.clear()
        self._held.clear()
        self._connection.abort()

    def _end(self) -> None:
        self._closed = True
        self._filled.set()
        self._drained.set()


def _too_long(request: bytes) -> str:
    """The answer in place of one that is too long."""
    error: dict[str, object] = {"error": {"class": "GenericError", "desc": TOO_LONG}}
    try:
        message = decode(request.decode())
    except ParseError:
        message = None
    if isinstance(message, dict) and "id" in message:
        error["id"] = message["id"]
    return encode(error).decode()

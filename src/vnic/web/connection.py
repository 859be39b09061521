"""One browser's connection, between its socket and uvicorn's protocols: what bounds its time, its input and its output.

uvicorn trusts its clients with time, and asyncio with memory. A `Connection` is asyncio's protocol for the socket and
uvicorn's transport, by their public interfaces only. `server.Web` makes one for each socket that it accepts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast

log = logging.getLogger(__name__)

REQUEST_S: Final = 30.0
"""The life of a connection without a session. A browser makes a new one where it needs it."""
LINGER_S: Final = 5.0
"""The time that a browser has to read the rest after a close."""


class Inner(Protocol):
    """uvicorn's protocol: HTTP first, and after an upgrade WebSocket."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> bool | None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Connection(asyncio.Protocol):
    """From its accept to its end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[Connection], Inner],
        ended: Callable[[Connection], None],
    ) -> None:
        """`make` makes uvicorn's protocol; `ended` is called once."""
        self._loop = loop
        self._inner = make(self)
        self._ended = ended
        self._facade = _Facade(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.has_session = False
        """It has shown the token, and speaks QMP."""
        self._upgrading = False
        self._inner_paused = False
        self._write_paused = False

    # -- asyncio's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._facade.transport = self._transport
        self._end_in(REQUEST_S)
        self._guarded(self._inner.connection_made, self._facade)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._guarded(self._inner.connection_lost, exc)
        self._ended(self)

    def data_received(self, data: bytes) -> None:
        self._guarded(self._inner.data_received, data)

    def eof_received(self) -> bool | None:
        self._guarded(self._inner.eof_received)
        return None

    def pause_writing(self) -> None:
        """The browser does not read. Nothing more is taken of it, since answers to pings would wait without bounds."""
        self._write_paused = True
        self._set_reading()
        self._guarded(self._inner.pause_writing)

    def resume_writing(self) -> None:
        self._write_paused = False
        self._set_reading()
        self._guarded(self._inner.resume_writing)

    def _guarded(self, call: Callable[..., object], *args: object) -> None:
        """What a browser sends may find a fault in uvicorn, h11 or wsproto: it ends this connection and no more."""
        try:
            call(*args)
        except Exception as error:
            log.warning("a browser is disconnected: %r", error)
            log.debug("in its protocol", exc_info=True)
            self.abort()

    # -- ours -------------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """The browser has a session now: its time is no longer limited, and its messages are taken."""
        self.has_session = True
        self._upgrading = False
        self._stop_timer()
        self._set_reading()

    def abort(self) -> None:
        """End it now; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()

    # -- uvicorn's side ---------------------------------------------------------------------------------------------

    def upgrade(self, inner: Inner) -> None:
        """To WebSocket. Until the session begins nothing more is read: it would be kept without bounds."""
        self._inner = inner
        self._upgrading = not self.has_session
        self._set_reading()

    def want_reading(self, wanted: bool) -> None:
        self._inner_paused = not wanted
        self._set_reading()

    def close(self) -> None:
        """Close it when all is sent, but do not wait for a browser that does not read."""
        self._end_in(LINGER_S)
        if self._transport is not None:
            self._transport.close()

    def _set_reading(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._inner_paused or self._write_paused or self._upgrading:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _end_in(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Facade(asyncio.Transport):
    """The connection's transport, as uvicorn sees it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self.transport: asyncio.Transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._connection.upgrade(cast(Inner, protocol))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.transport.writelines(list_of_data)

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        self._connection.abort()

    def pause_reading(self) -> None:
        self._connection.want_reading(False)

    def resume_reading(self) -> None:
        self._connection.want_reading(True)

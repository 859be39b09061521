"""`-web`: the listening socket, the browsers' connections, and uvicorn's protocols in the loop of control.

`vnic run` makes a `Web`, has it take up what the process before left, and opens it. uvicorn's own server is not used:
it accepts without limits and takes signals.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from importlib import import_module
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, cast

from vnic.descriptors import close_fds
from vnic.keep import NO_KEPT, Keep
from vnic.monitor.policy import Policy
from vnic.monitor.server import Monitors
from vnic.net.errors import NetError
from vnic.plainfile import open_plain
from vnic.record import Record, RecordError, require
from vnic.sandbox.identity import hold_none_in_this_thread
from vnic.sockets.address import InetAddress
from vnic.sockets.listener import (
    MANY_PEERS,
    Listener,
    Listening,
    ListeningHandles,
    ListeningRecord,
    listen_on,
)
from vnic.sockets.resolve import resolve_all
from vnic.web.choice import LOOPBACK, TOKEN, WebChoice

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from vnic.web.app import Application
    from vnic.web.connection import Connection, Inner

log = logging.getLogger(__name__)

TOKEN_BYTES: Final = 32
CONNECTIONS_MAX: Final = 64
"""The most connections that have no session yet; for one more, the oldest of them is ended."""
CLOSE_S: Final = 1.0
"""The time for browsers to take the end."""
MESSAGE_MAX_BYTES: Final = 1 << 16
"""The longest message of a browser; QMP takes half of it."""
HEAD_MAX_BYTES: Final = 1 << 14
"""The longest head of a request."""
KEEP_ALIVE_S: Final = 5
PING_S: Final = 20.0
"""A browser that has answered no ping for this time is gone."""


class WebRecord(Record, frozen=True):
    """The state of a Web. Its browsers are not part of it: they connect again."""

    token: str
    listening: ListeningRecord

    def check_fields(self) -> None:
        require(TOKEN.fullmatch(self.token), "token", "is none")


class Web:
    """The server of one -web, from `open` to `close`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        choice: WebChoice,
        monitors: Monitors,
        policy: Policy,
        keep: Keep,
    ) -> None:
        """`policy`: that of -monitor-policy."""
        self._loop = loop
        self._choice = choice
        self.where = f"-web {choice}"
        self._monitors = monitors
        self._policy = choice.policy or policy
        self._keep = keep
        self._kept = NO_KEPT
        self._key = f"web/{choice}"
        self._listening: Listening | None = None
        self._listener: Listener | None = None
        self._token = ""
        self._connections: dict[Connection, None] = {}
        """In the order in which they came."""
        self._empty = asyncio.Event()
        self._empty.set()
        self._tasks: set[asyncio.Task[None]] = set()
        """Sockets that become connections."""
        self._app: Application | None = None
        self._config: Config
        self._state: ServerState

    # -- the start --------------------------------------------------------------------------------------------------

    def take_up(self) -> None:
        """Have the listening socket of the process before, with the browsers in its backlog, and its token."""
        found = self._keep.inherited(self._key, WebRecord, ListeningHandles)
        if found is None:
            return
        record, handles = found
        try:
            self.restore(record, handles)
        except RecordError as error:
            close_fds(fd for fd in handles if fd is not None)
            self._keep.refused(self._key, error)
            return
        self._kept = self._keep.unit(self._key, self)

    def restore(self, record: WebRecord, handles: ListeningHandles) -> None:
        self._listening = Listening.taken_up(record.listening, handles)
        self._token = record.token

    def save_kept(self) -> tuple[WebRecord, ListeningHandles]:
        assert self._listening is not None
        return WebRecord(token=self._token, listening=self._listening.save()), self._listening.handles

    async def open(self) -> str | None:
        """Listen, and serve. Returns the URL, with its token if that was made now; None: browsers have it since the
        process before. Raises NetError; nothing is open then."""
        known = self._listening is not None
        try:
            given = None if self._choice.token_file is None else read_token(self._choice.token_file)
            is_new = not self._token and given is None
            self._token = given or self._token or secrets.token_urlsafe(TOKEN_BYTES)
            await self._load()
            if self._listening is None:
                address = InetAddress(host=self._choice.host, port=str(self._choice.port))
                targets = await resolve_all(self._loop, address, passive=True)
                self._listening = listen_on(targets, address, backlog=MANY_PEERS)
                self._kept = self._keep.unit(self._key, self)
        except NetError:
            self._stop_listening()
            raise
        self._kept.changed()
        self._warn_of_listeners(self._listening)
        self._listener = Listener(self._loop, self._listening, self._accepted, self.where)
        return None if known else self._url(self._listening, with_token=is_new)

    async def _load(self) -> None:
        """Make what serves. Few runs need these libraries, and guests do not wait for their import."""
        try:
            await self._loop.run_in_executor(None, _import)
        except ImportError as error:
            why = f"it needs Starlette, uvicorn and wsproto ({error}): pip install 'vnic[web]'"
            raise NetError(why) from None
        from uvicorn.config import Config
        from uvicorn.server import ServerState

        from vnic.web.app import Application
        from vnic.web.assets import load
        from vnic.web.guard import Guard

        self._app = Application(self.where, self._token, self._monitors, self._policy, load())
        names = ("localhost", self._choice.host, *self._choice.names)
        self._config = Config(
            Guard(self._app.asgi, self.where, names),
            interface="asgi3",
            http="h11",
            ws="wsproto",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # they are not to be believed
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=HEAD_MAX_BYTES,
            ws_max_size=MESSAGE_MAX_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
        )
        self._config.load()
        self._state = ServerState()
        # It would log each request with its token, and a traceback for what `connection` and `guard` have told already.
        for name in ("uvicorn", "uvicorn.error"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def _warn_of_listeners(self, listening: Listening) -> None:
        if not _address_of(listening).is_loopback:
            log.warning(
                "%s: whoever hears this network can read the token: use SSH, or a proxy with TLS", self.where
            )

    def _url(self, listening: Listening, *, with_token: bool) -> str:
        address, port = _address_of(listening), listening.socket.getsockname()[1]
        host = LOOPBACK if address.is_unspecified else str(address)
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        return f"{url}?token={self._token}" if with_token else url

    # -- connections ------------------------------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket) -> None:
        from vnic.web.connection import Connection

        waiting = [each for each in self._connections if not each.has_session]
        if len(waiting) >= CONNECTIONS_MAX:
            waiting[0].abort()

        connection = Connection(self._loop, self._protocol, self._ended)
        self._connections[connection] = None
        self._empty.clear()
        task = self._loop.create_task(self._connect(connection, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: Connection, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except OSError as error:
            log.debug("%s: a browser left: %r", self.where, error)
            sock.close()
            self._ended(connection)

    def _ended(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        if not self._connections:
            self._empty.set()

    def _protocol(self, connection: Connection) -> Inner:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        from vnic.web.app import CONNECTION

        return cast("Inner", H11Protocol(self._config, self._state, {CONNECTION: connection}, self._loop))

    # -- the end ----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """After the monitors, whose end closes the sessions: give the browsers a moment to take what waits."""
        self._stop_listening()
        if self._app is not None and self._app.sessions:
            await asyncio.wait(self._app.sessions.values(), timeout=CLOSE_S)
        if self._tasks:
            await asyncio.wait(self._tasks)
        for connection in list(self._connections):
            connection.abort()
        await self._empty.wait()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
        elif self._listening is not None:
            self._listening.close()
        self._kept.end()


def _import() -> None:
    """In a thread."""
    hold_none_in_this_thread()
    for name in (
        "uvicorn.protocols.http.h11_impl",
        "uvicorn.protocols.websockets.wsproto_impl",
        "vnic.web.app",
    ):
        import_module(name)


def _address_of(listening: Listening) -> IPv4Address | IPv6Address:
    return ip_address(listening.socket.getsockname()[0].partition("%")[0])


def read_token(path: str) -> str:
    """The first line of a file. Raises NetError."""
    try:
        fd = open_plain(path, os.O_RDONLY)
        with open(fd, encoding="ascii", errors="replace") as file:
            token = file.readline(1024).strip()
    except OSError as error:
        raise NetError(f"token-file={path}: {error.strerror}") from None
    if not TOKEN.fullmatch(token):
        raise NetError(f"token-file={path}: its first line is to be 16 to 256 of A-Z a-z 0-9 . _ ~ -")
    return token

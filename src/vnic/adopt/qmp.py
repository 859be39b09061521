"""QmpConnection: a client of a QMP socket that may not be there yet, or go and come back. `qemu` has one.

It connects, and again after each end; commands are sent at once and answered in their order. It waits for nothing in
the loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final

from vnic.adopt.channel import Channel
from vnic.adopt.hypervisor import HypervisorError
from vnic.lifecycle import Lifecycle
from vnic.protocol.qmp.client import Event, Greeting, Messages, QmpError, Reply, command

log = logging.getLogger(__name__)

PAUSES_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Before each next try; the last one is repeated."""
GREETING_S: Final = 1.0
"""A monitor that does not greet in this time is told of. It is not left: QEMU serves one client after another."""
IN_USE: Final = "it does not greet: another client may use this monitor"


class State(Enum):
    """Of a QmpConnection."""

    CLOSED = auto()
    """Not begun, or ended for good."""
    PAUSING = auto()
    """The last try failed."""
    CONNECTING = auto()
    GREETING = auto()
    """Connected; QEMU's greeting is due."""
    READY = auto()
    """Commands may be sent."""


class QmpConnection:
    """One client. Its callbacks: `ready` with QEMU's version, `event`, and `lost` with the reason at each failure."""

    state = Lifecycle(
        State.CLOSED,
        {
            State.CLOSED: frozenset({State.CONNECTING}),
            State.PAUSING: frozenset({State.CONNECTING, State.CLOSED}),
            State.CONNECTING: frozenset({State.GREETING, State.PAUSING, State.CLOSED}),
            State.GREETING: frozenset({State.READY, State.PAUSING, State.CLOSED}),
            State.READY: frozenset({State.PAUSING, State.CLOSED}),
        },
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        *,
        ready: Callable[[str], None],
        event: Callable[[Event], None],
        lost: Callable[[str], None],
    ) -> None:
        """Raises NetError for a path that no socket can have."""
        self._loop = loop
        self._channel = Channel(
            loop, path, self, closed="QEMU closed the connection", unread="it does not read its commands"
        )
        self._ready, self._event, self._lost = ready, event, lost
        self._tries = 0
        self._messages = Messages()
        self._next_id = 1
        self._pending: dict[object, asyncio.Future[Any]] = {}

    def start(self) -> None:
        self.state = State.CONNECTING
        self._channel.connect()

    def close(self) -> None:
        """End for good; what is pending fails."""
        self.state = State.CLOSED
        self._channel.drop()
        self._fail_pending("vnic has let the VM go")

    @property
    def peer(self) -> str:
        """The process at the other end, by its number and its start; "" if unknown."""
        sock = self._channel.sock
        if sock is None:
            return ""
        try:
            data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid = struct.unpack("3i", data)[0]
            with open(f"/proc/{pid}/stat", "rb") as stat:
                return f"{pid} {stat.read().rpartition(b')')[2].split()[19].decode()}"
        except (OSError, IndexError, UnicodeDecodeError):
            return ""

    def execute(self, name: str, arguments: Mapping[str, object] | None = None) -> asyncio.Future[Any]:
        """What QEMU returns; HypervisorError if it refuses or goes."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.state is not State.READY:
            future.set_exception(HypervisorError("QEMU is not there"))
            return future
        self._send(name, arguments or {}, future)
        return future

    # -- ChannelUser --------------------------------------------------------------------------------------------

    def connected(self) -> None:
        self.state = State.GREETING
        self._messages = Messages()
        self._channel.after(GREETING_S, lambda: self._lost(IN_USE))

    def ended(self, text: str) -> None:
        """Another connection is tried."""
        self._fail_pending(text)
        self.state = State.PAUSING
        pause = PAUSES_S[min(self._tries, len(PAUSES_S) - 1)]
        self._tries += 1
        self._channel.after(pause, self.start)
        self._lost(text)

    def received(self, data: bytes) -> None:
        try:
            for message in self._messages.feed(data):
                self._take(message)
                if self.state not in (State.GREETING, State.READY):
                    return
        except QmpError as error:
            log.warning("%s: %s", self._channel.path, error)
            self._channel.end(str(error))

    def _fail_pending(self, text: str) -> None:
        pending, self._pending = self._pending, {}
        for future in pending.values():
            _fail(future, text)

    # -- messages -----------------------------------------------------------------------------------------------

    def _take(self, message: Greeting | Reply | Event) -> None:
        """Raises QmpError."""
        if isinstance(message, Event):
            # Whoever waits for the reply before it is told in a turn of its own, too, and first.
            self._loop.call_soon(self._tell, message, self._channel.sock)
        elif isinstance(message, Greeting):
            self._greeted(message)
        else:
            future = self._pending.pop(message.id, None) if isinstance(message.id, int) else None
            if future is None:
                raise QmpError("it answered what was not asked")
            if message.error is not None:
                _fail(future, message.error)
            elif not future.done():
                future.set_result(message.value)

    def _tell(self, event: Event, sock: socket.socket | None) -> None:
        if self._channel.sock is sock and self.state is State.READY:
            self._event(event)

    def _greeted(self, greeting: Greeting) -> None:
        if self.state is not State.GREETING:
            raise QmpError("it greeted twice")
        self._channel.cancel_timer()
        self.state = State.READY
        self._tries = 0
        self.execute("qmp_capabilities")  # what follows is sent at once, and refused if this is
        self._ready(greeting.version)

    def _send(self, name: str, arguments: Mapping[str, object], future: asyncio.Future[Any]) -> None:
        number = self._next_id
        self._next_id += 1
        self._pending[number] = future
        self._channel.send(command(name, arguments, number))


def _fail(future: asyncio.Future[Any], text: str) -> None:
    if not future.done():
        future.set_exception(HypervisorError(text))
        future.exception()  # whoever asked may be gone

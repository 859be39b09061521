"""QmpConnection: a client of a QMP socket that may not be there yet, or go and come back. `qemu` has one.

It connects, and again after each end; commands are sent at once and answered in their order. It waits for nothing in
the loop. What it receives is handled one message a turn of the loop, and for a share of its time: whoever listens at
that path may flood it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final

from vnic.adopt.channel import Channel
from vnic.adopt.hypervisor import NICS_MAX, HypervisorError
from vnic.adopt.limits import Share
from vnic.lifecycle import Lifecycle
from vnic.protocol.qmp.client import Event, Greeting, Message, Messages, QmpError, command

PAUSES_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Before each next try; the last one is repeated."""
STEADY_S: Final = 10.0
"""A connection that ends earlier is a strike, which is gone after one that lasts as long."""
FREE_STRIKES: Final = 3
LONGEST_PAUSE_S: Final = 1.0
"""Above FREE_STRIKES: VMs may live for a short time, one after another."""
LONGEST_VIOLATED_S: Final = 30.0
"""The same after a violation of the protocol."""
PENDING_MAX: Final = 2 * NICS_MAX + 16
"""The most commands without an answer."""
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
    """One client. Its callbacks: `ready` with QEMU's version, `event`, and `lost` with the reason at each failure, and
    whether that was a violation of the protocol."""

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
        lost: Callable[[str, bool], None],
    ) -> None:
        """Raises NetError for a path that no socket can have."""
        self._loop = loop
        self._channel = Channel(
            loop, path, self, closed="QEMU closed the connection", unread="it does not read its commands"
        )
        self._ready, self._event, self._lost = ready, event, lost
        self._tries = 0
        self._strikes = 0
        self._began = 0.0
        """When the connection was made."""
        self._violated = False
        self._messages = Messages()
        self._arrived: deque[Message] = deque()
        """Messages that are not handled yet; nothing is read meanwhile."""
        self._share = Share()
        self._next: asyncio.Handle | None = None
        self._next_id = 1
        self._pending: dict[object, asyncio.Future[Any]] = {}

    def start(self) -> None:
        self.state = State.CONNECTING
        self._channel.connect()

    def close(self) -> None:
        """End for good; what is pending fails."""
        self.state = State.CLOSED
        self._channel.drop()
        self._forget("vnic has let the VM go")

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
        if len(self._pending) >= PENDING_MAX:
            future.set_exception(HypervisorError("QEMU does not answer"))
            return future
        self._send(name, arguments or {}, future)
        return future

    # -- ChannelUser --------------------------------------------------------------------------------------------

    def connected(self) -> None:
        self.state = State.GREETING
        self._began = self._loop.time()
        self._violated = False
        self._messages = Messages()
        self._channel.after(GREETING_S, lambda: self._lost(IN_USE, False))

    def ended(self, text: str) -> None:
        """Another connection is tried."""
        was_there = self.state is not State.CONNECTING
        self._forget(text)
        self.state = State.PAUSING
        self._channel.after(self._pause(was_there), self.start)
        self._lost(text, self._violated)

    def received(self, data: bytes) -> None:
        self._work(data)

    def _forget(self, text: str) -> None:
        """What is under way is of a connection that has ended."""
        self._arrived.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        pending, self._pending = self._pending, {}
        for future in pending.values():
            _fail(future, text)

    def _pause(self, was_there: bool) -> float:
        """Before the next try."""
        pause = PAUSES_S[min(self._tries, len(PAUSES_S) - 1)]
        self._tries += 1
        if was_there:
            steady = self._loop.time() - self._began >= STEADY_S
            self._strikes = 1 if steady else self._strikes + 1
            if self._strikes > FREE_STRIKES:
                longest = LONGEST_VIOLATED_S if self._violated else LONGEST_PAUSE_S
                pause = max(pause, min(PAUSES_S[-1] * 2 ** min(self._strikes - FREE_STRIKES, 16), longest))
        return pause

    # -- messages -----------------------------------------------------------------------------------------------

    def _work(self, data: bytes = b"") -> None:
        """Handle one message, of those that have arrived; the next one in a turn of its own: whoever waits for a reply
        is told of it before the event that follows it."""
        self._next = None
        began = time.thread_time()
        try:
            self._arrived.extend(self._messages.feed(data))
            if self._arrived:
                self._take(self._arrived.popleft())
        except QmpError as error:
            self._violated = True
            self._channel.end(str(error))
        if self._channel.sock is None:
            return
        pause = self._share.took(time.thread_time() - began, self._loop.time())
        if pause:
            self._next = self._loop.call_later(pause, self._work)
        elif self._arrived:
            self._next = self._loop.call_soon(self._work)
        self._channel.read(self._next is None)

    def _take(self, message: Message) -> None:
        """Raises QmpError."""
        if isinstance(message, Event):
            if self.state is State.READY:
                self._event(message)
        elif isinstance(message, Greeting):
            self._greeted(message)
        else:
            future = self._pending.pop(message.id, None) if type(message.id) is int else None
            if future is None:
                raise QmpError("it answered what was not asked")
            if message.error is not None:
                _fail(future, message.error)
            elif not future.done():
                future.set_result(message.value)

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

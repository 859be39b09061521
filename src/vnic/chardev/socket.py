"""The socket of a `-chardev socket`, which serves one peer at a time. Vhost-user netdevs and filters use it.

`ChardevSocket` listens, connects or takes the passed socket, and never blocks. Source: QEMU's chardev/char-socket.c.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from contextlib import suppress
from typing import Final, Protocol

from vnic.chardev.options import ChardevOptions, SocketOptions
from vnic.lifecycle import Lifecycle, Moves
from vnic.net.errors import NetError
from vnic.record import U64, Record, left_us, require
from vnic.sockets.address import FdAddress, UnixAddress, address_of, describe
from vnic.sockets.bind import socket_mode
from vnic.sockets.connect import Connector, set_stream_options
from vnic.sockets.listener import Listener, Listening, ListeningRecord, listen_on, listen_on_passed
from vnic.sockets.resolve import AddressError, Resolved, resolve, resolve_at_once


class SocketChardevState(enum.Enum):
    """The state of the socket."""

    CLOSED = "closed"
    LISTENING = "listening"
    CONNECTING = "connecting"
    WAITING = "waiting"
    """Waiting for the time of the next attempt to connect."""
    OPEN = "open"
    """The user has a peer."""
    ENDED = "ended"
    """A client without reconnect-ms whose only attempt or connection has ended."""


MOVES: Final[Moves[SocketChardevState]] = {
    SocketChardevState.CLOSED: frozenset(
        {SocketChardevState.LISTENING, SocketChardevState.WAITING, SocketChardevState.ENDED}
    ),
    SocketChardevState.LISTENING: frozenset({SocketChardevState.OPEN, SocketChardevState.CLOSED}),
    SocketChardevState.CONNECTING: frozenset(
        {
            SocketChardevState.OPEN,
            SocketChardevState.WAITING,
            SocketChardevState.ENDED,
            SocketChardevState.CLOSED,
        }
    ),
    SocketChardevState.WAITING: frozenset(
        {
            SocketChardevState.CONNECTING,
            SocketChardevState.OPEN,
            SocketChardevState.ENDED,
            SocketChardevState.CLOSED,
        }
    ),
    SocketChardevState.OPEN: frozenset(
        {
            SocketChardevState.LISTENING,
            SocketChardevState.WAITING,
            SocketChardevState.ENDED,
            SocketChardevState.CLOSED,
        }
    ),
    SocketChardevState.ENDED: frozenset({SocketChardevState.CLOSED}),
}


class ChardevSocketRecord(Record, frozen=True):
    """The state of a ChardevSocket apart from its sockets. That of the peer is its user's."""

    state: SocketChardevState
    wait_us: U64 | None
    """The time to the next attempt to connect, or to the next accept."""
    listening: ListeningRecord | None = None
    """None, too, if the chardev has the socket."""

    def check_fields(self) -> None:
        state = self.state
        if state is SocketChardevState.WAITING:
            require(self.wait_us is not None, "wait_us", "is missing")
        else:
            waits = self.wait_us is None or state is SocketChardevState.LISTENING
            require(waits, "wait_us", f"does not go with {state.value}")


class ChardevUser(Protocol):
    """What a ChardevSocket needs from its user."""

    def moved(self) -> None:
        """`state` has changed, or what it has open."""

    def opened(self, sock: socket.socket) -> None:
        """A peer is connected. The user owns the socket, and calls `rearm` when the connection has ended."""

    def awaiting(self, text: str) -> None:
        """No peer is connected. `text` describes, for an operator, the current attempt and the last error."""


class NamedSocket(Protocol):
    """What a ChardevSocket needs from a chardev."""

    @property
    def label(self) -> str: ...

    @property
    def options(self) -> ChardevOptions: ...

    @property
    def listener(self) -> Listening | None:
        """The listening socket, which exists as long as the chardev, as in QEMU; peers wait in the backlog while the
        chardev has no user. None: the user opens it."""

    @property
    def passed(self) -> socket.socket | None:
        """The connected socket that `fd=` named."""

    def close_passed(self) -> None:
        """Close that one."""


def socket_options(options: ChardevOptions, label: str) -> SocketOptions:
    """The socket options of a chardev that can carry frames. Raises NetError."""
    if not isinstance(options, SocketOptions):
        raise NetError(
            f"chardev '{label}' cannot carry frames: it takes a socket with 'path', or 'host' and 'port'"
        )
    if options.telnet:
        raise NetError(f"chardev '{label}' cannot carry frames: telnet=on is for monitors")
    return options


def fd_passing_options(chardev: NamedSocket) -> SocketOptions:
    """The socket options of a chardev that can pass descriptors: a UNIX socket. Raises NetError with QEMU's text for
    others."""
    if not isinstance(chardev.options, SocketOptions):
        raise NetError(f'chardev "{chardev.label}" is not reconnectable')
    options = socket_options(chardev.options, chardev.label)
    sock = chardev.listener.socket if chardev.listener is not None else chardev.passed
    is_unix = (
        sock is not None and sock.family == socket.AF_UNIX
        if isinstance(options.addr, FdAddress)
        else isinstance(options.addr, UnixAddress)
    )
    if not is_unix:
        raise NetError(f'chardev "{chardev.label}" does not support FD passing')
    return options


def listener_of(options: ChardevOptions, passed: socket.socket | None) -> Listening | None:
    """The socket on which a chardev listens from the start. None if it does not listen, or if its host name has to be
    looked up: then its user opens it. `passed` is the socket that `fd=` named. Raises NetError."""
    if not isinstance(options, SocketOptions) or not options.server:
        return None
    if isinstance(options.addr, FdAddress):
        return None if passed is None else listen_on_passed(passed)
    address = socket_options(options, options.id).addr
    assert not isinstance(address, FdAddress)
    targets = resolve_at_once(address, passive=True)
    return None if targets is None else listen_on(targets, address, socket_mode(options.mode))


class ChardevSocket:
    """The socket of one chardev in the loop."""

    state = Lifecycle(SocketChardevState.CLOSED, MOVES, "_moved")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        chardev: NamedSocket,
        user: ChardevUser,
        *,
        passes_fds: bool = True,
    ) -> None:
        """NetError for a chardev that cannot serve its user. Nothing is opened before `start`."""
        options = (
            fd_passing_options(chardev) if passes_fds else socket_options(chardev.options, chardev.label)
        )
        self._loop = loop
        self._user = user
        self._address = options.addr
        self._server = options.server
        self._mode = socket_mode(options.mode)
        self._reconnect_s = options.reconnect_ms / 1000
        self._shared = chardev.listener
        self._passed = chardev.passed
        self._close_passed = chardev.close_passed
        self._keeps_passed = not passes_fds
        """Whether the next user can continue with the passed connection; vhost-user negotiates once per connection."""
        self._listener: Listener | None = None
        self._connector: Connector | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancel_resolve = _nothing
        self._failure = ""

    @property
    def name(self) -> str:
        """The address for an operator; for a passed listening socket, the address it is bound to."""
        if self._shared is not None and isinstance(self._address, FdAddress):
            return describe(address_of(self._shared.socket.family, self._shared.socket.getsockname()))
        return describe(self._address)

    def _moved(self) -> None:
        self._user.moved()

    def start(self) -> None:
        """Listen, or start to connect in a later turn of the loop. Raises NetError if it cannot listen."""
        if self._shared is not None:
            # The chardev keeps listening after this is closed.
            self._listener = Listener(self._loop, self._shared.dup(), self._open, self.name)
            self._listening("")
        elif isinstance(self._address, FdAddress):
            self._user.awaiting(f"waiting for {self.name}")
            self._wait(0)
        elif self._server:
            self._cancel_resolve = resolve(
                self._loop, self._address, passive=True, found=self._listen, failed=self._cannot_listen
            )
            if self._failure:
                raise NetError(self._failure)
        else:
            self._user.awaiting(f"connecting to {self.name}")
            self._wait(0)

    # -- state apart from sockets -------------------------------------------------------------------------------

    def save(self) -> ChardevSocketRecord:
        timer = self._timer
        return ChardevSocketRecord(
            state=self.state,
            wait_us=None if timer is None else left_us(timer.when(), self._loop.time()),
            listening=None if self.listening is None else self.listening.save(),
        )

    @property
    def listening(self) -> Listening | None:
        """The socket that belongs to the record, unless the chardev owns it."""
        return None if self._listener is None or self._shared is not None else self._listener.listening

    def check(self, record: ChardevSocketRecord, listening: Listening | None) -> None:
        """Raise RecordError if `restore` cannot be called with these."""
        state = record.state
        dials = state in (SocketChardevState.WAITING, SocketChardevState.CONNECTING)
        accepts = state is SocketChardevState.LISTENING
        fits = not dials if self._server else not accepts
        require(fits, "state", f"is {state.value}, which this chardev cannot be")
        listens = self._server and state in (SocketChardevState.LISTENING, SocketChardevState.OPEN)
        passed = f"is {state.value}, and {'a' if listening else 'no'} listening socket was passed"
        require((listens and self._shared is None) is (listening is not None), "state", passed)

    def restore(self, record: ChardevSocketRecord, listening: Listening | None, *, age_us: int = 0) -> None:
        """Go on in the place of the socket that was saved; called instead of `start`. `listening` is its own then, and
        is None if the chardev has its listening socket itself. A look-up or an attempt to connect is made anew.
        `age_us` is the time since the record was saved. Raises RecordError."""
        self.check(record, listening)
        state = record.state
        wait_s = max(0, (record.wait_us or 0) - age_us) / 1e6
        ChardevSocket.state.restore(self, state)
        if self._server and state in (SocketChardevState.LISTENING, SocketChardevState.OPEN):
            ours = listening if self._shared is None else self._shared.dup()
            assert ours is not None
            self._listener = Listener(self._loop, ours, self._open, self.name)
            if state is SocketChardevState.OPEN or record.wait_us is not None:
                self._listener.pause()
        if state is SocketChardevState.CLOSED:
            with suppress(NetError):  # the user was told
                self.start()
        elif state is SocketChardevState.LISTENING and record.wait_us is not None:
            self._timer = self._loop.call_later(wait_s, self._listen_again)
        elif state in (SocketChardevState.WAITING, SocketChardevState.CONNECTING):
            ChardevSocket.state.restore(self, SocketChardevState.WAITING)
            self._timer = self._loop.call_later(wait_s, self._connect)

    def _listen(self, targets: list[Resolved]) -> None:
        assert not isinstance(self._address, FdAddress)
        try:
            listening = listen_on(targets, self._address, self._mode)
        except AddressError as error:
            self._cannot_listen(error.desc)
            return
        self._listener = Listener(self._loop, listening, self._open, self.name)
        self._listening("")

    def _cannot_listen(self, reason: str) -> None:
        """Notify the user. `start` also reports it, unless the lookup of a host name took longer."""
        self.state = SocketChardevState.ENDED
        self._failure = reason
        self._user.awaiting(reason)

    def rearm(self, reason: str, pause_s: float = 0.0) -> None:
        """The user's connection has ended because of `reason`: prepare the next one, after `pause_s` at the
        earliest."""
        if self.state is not SocketChardevState.OPEN:
            return
        if self._listener is None:
            self._try_later(reason, pause_s)
            return
        self._listening(reason)
        self._timer = self._loop.call_later(pause_s, self._listen_again)

    def _listen_again(self) -> None:
        self._timer = None
        if self._listener is not None:
            self._listener.resume()

    def close(self) -> None:
        """Stop, and remove the path that was listened on, unless the chardev owns it."""
        self.state = SocketChardevState.CLOSED
        if self._passed is not None and not self._keeps_passed:
            self._close_passed()
        self._cancel_resolve()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connector is not None:
            self._connector.cancel()
            self._connector = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _listening(self, reason: str) -> None:
        self.state = SocketChardevState.LISTENING
        what = f"listening on {self.name}"
        self._user.awaiting(f"{reason}; {what}" if reason else f"{what}, no back-end yet")

    def _open(self, sock: socket.socket) -> None:
        self.state = SocketChardevState.OPEN
        if self._listener is not None:
            self._listener.pause()
        self._user.opened(sock)

    def _wait(self, seconds: float) -> None:
        self.state = SocketChardevState.WAITING
        self._timer = self._loop.call_later(seconds, self._connect)

    def _connect(self) -> None:
        self._timer = None
        if isinstance(self._address, FdAddress):
            self._open_passed()
            return
        self.state = SocketChardevState.CONNECTING
        self._connector = Connector(self._loop, self._address, self._open, self._try_later)

    def _open_passed(self) -> None:
        try:
            assert self._passed is not None
            self._passed.getpeername()
            sock = self._passed.dup()
        except OSError:
            self._try_later(f"{self.name} is not connected")
            return
        sock.setblocking(False)
        set_stream_options(sock)
        self._open(sock)

    def _try_later(self, reason: str, pause_s: float = 0.0) -> None:
        """Set the timer for the next attempt (qemu_chr_socket_restart_timer); stop if there is no reconnect-ms."""
        if self._passed is not None:
            self._close_passed()
            self.state = SocketChardevState.ENDED
            self._user.awaiting(f"{reason}; a socket that was passed does not come back")
        elif self._reconnect_s:
            seconds = max(self._reconnect_s, pause_s)
            self._user.awaiting(f"{reason}; trying again every {seconds:g} s")
            self._wait(seconds)
        else:
            self.state = SocketChardevState.ENDED
            self._user.awaiting(f"{reason}; there is no reconnect-ms, so it stays so")


def _nothing() -> None:
    """The canceller while no lookup is in progress."""

"""The socket of a `-chardev socket` as back-ends and filters use it: one peer at a time, and another when that went.

`ChardevSocket` listens or connects, again and again, and never waits; `vnic.backend.vhost_user` and `vnic.filter.port`
speak over what it opens. Sources: QEMU's chardev/char-socket.c.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from typing import Any, Protocol

from vnic.backend.options import InetAddress, UnixAddress
from vnic.net.errors import NetError
from vnic.sockets.address import (
    AddressError,
    Resolved,
    describe,
    resolve,
    resolve_at_once,
)
from vnic.sockets.bind import socket_mode
from vnic.sockets.connect import (
    Connector,
    Listener,
    Listening,
    listen_on,
)


class SocketChardevState(enum.Enum):
    """Where the socket is."""

    CLOSED = enum.auto()
    LISTENING = enum.auto()
    CONNECTING = enum.auto()
    WAITING = enum.auto()
    """For the time of the next attempt to connect."""
    OPEN = enum.auto()
    """The user has a peer."""
    ENDED = enum.auto()
    """A client without reconnect-ms whose one attempt or connection is over."""


class ChardevUser(Protocol):
    """What is built on the chardev."""

    def opened(self, sock: socket.socket) -> None:
        """A peer is there; the socket belongs to the user, who calls `rearm` when it is done with it."""

    def awaiting(self, text: str) -> None:
        """No peer is there; `text` says for a person what is tried, and what went wrong if something did."""


def unix_options(options: Any, label: str) -> UnixAddress:
    """The path of a chardev that can pass descriptors. NetError, with QEMU's text, for others."""
    path = getattr(options, "path", None)
    if not hasattr(options, "reconnect_ms"):
        raise NetError(f'chardev "{label}" is not reconnectable')
    _check_plain(options, label)
    if path is None:
        raise NetError(f'chardev "{label}" does not support FD passing')
    return UnixAddress(path=path, abstract=options.abstract, tight=options.tight)


def socket_options(options: Any, label: str) -> UnixAddress | InetAddress:
    """The address of a chardev that need not pass descriptors; NetError for one that is no such socket."""
    if getattr(options, "path", None) is not None:
        return unix_options(options, label)
    if getattr(options, "port", None) is None:
        raise NetError(
            f"chardev '{label}' cannot carry frames: it takes a socket with 'path', or 'host' and 'port'"
        )
    _check_plain(options, label)
    return InetAddress(host=options.host or "", port=options.port, ipv4=options.ipv4, ipv6=options.ipv6)


def _check_plain(options: Any, label: str) -> None:
    if getattr(options, "telnet", False):
        raise NetError(f"chardev '{label}' cannot carry frames: telnet=on is for monitors")


class ChardevListener:
    """The socket that a `server=on` chardev listens on for as long as it exists, whoever uses it, as in QEMU.

    Callers wait in its backlog while nobody does.
    """

    def __init__(self, listening: Listening) -> None:
        self.socket = listening.socket
        self._listening = listening

    @property
    def inet_name(self) -> tuple[str, int] | None:
        """The address and port, which the kernel may have chosen; None for a UNIX socket."""
        if self.socket.family == socket.AF_UNIX:
            return None
        host, port = self.socket.getsockname()[:2]
        return host, port

    def close(self) -> None:
        self._listening.close()


def listener_of(options: Any, label: str) -> ChardevListener | None:
    """What a chardev listens on from the start; None for one that does not listen, or at a name that has to be
    looked up, which takes its time: its user sees to that. Raises NetError."""
    if not getattr(options, "server", False) or options.fd is not None:
        return None
    address = socket_options(options, label)
    try:
        targets = resolve_at_once(address, passive=True)
        if targets is None:
            return None
        return ChardevListener(listen_on(targets, address, socket_mode(options.mode)))
    except AddressError as error:
        raise NetError(str(error)) from None


class ChardevSocket:
    """One chardev's socket in the loop. `options` are those of `-chardev socket` (path, server, reconnect_ms)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        label: str,
        options: Any,
        user: ChardevUser,
        *,
        passes_fds: bool = True,
        listener: ChardevListener | None = None,
    ) -> None:
        """NetError for a chardev that cannot serve its user. Nothing is opened before `start`.

        `listener`: the chardev listens already, and goes on with that when this is closed.
        """
        self._loop = loop
        self._user = user
        self._address = unix_options(options, label) if passes_fds else socket_options(options, label)
        self._server = bool(options.server)
        self._mode = socket_mode(options.mode)
        self._reconnect_s = options.reconnect_ms / 1000
        self._shared = listener
        self._listener: Listener | None = None
        self._connector: Connector | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancel_resolve = _nothing
        self._failure = ""
        self.state = SocketChardevState.CLOSED

    @property
    def name(self) -> str:
        """The address for a person."""
        return describe(self._address)

    def start(self) -> None:
        """Listen (NetError where that is not possible) or begin to connect, in a later turn of the loop."""
        if not self._server:
            self._user.awaiting(f"connecting to {self.name}")
            self._wait(0)
            return
        if self._shared is not None:
            self._listener = Listener(self._loop, Listening(self._shared.socket.dup(), None), self._open)
            self._listening("")
            return
        self._cancel_resolve = resolve(
            self._loop, self._address, passive=True, found=self._listen, failed=self._cannot_listen
        )
        if self._failure:
            raise NetError(self._failure)

    def _listen(self, targets: list[Resolved]) -> None:
        try:
            listening = listen_on(targets, self._address, self._mode)
        except AddressError as error:
            self._cannot_listen(str(error))
            return
        self._listener = Listener(self._loop, listening, self._open)
        self._listening("")

    def _cannot_listen(self, reason: str) -> None:
        """Told to the user, and by `start` unless the lookup of a host name outlasted it."""
        self.state = SocketChardevState.ENDED
        self._failure = reason
        self._user.awaiting(reason)

    def rearm(self, reason: str, pause_s: float = 0.0) -> None:
        """The user's connection ended because of `reason`: see to the next one, after `pause_s` at the earliest."""
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
            self._listener.listen_again()

    def close(self) -> None:
        """Stop, and remove the path that was listened on, if it is not the chardev's."""
        self.state = SocketChardevState.CLOSED
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
        self._user.opened(sock)

    def _wait(self, seconds: float) -> None:
        self.state = SocketChardevState.WAITING
        self._timer = self._loop.call_later(seconds, self._connect)

    def _connect(self) -> None:
        self._timer = None
        self.state = SocketChardevState.CONNECTING
        self._connector = Connector(self._loop, self._address, self._open, self._try_later)

    def _try_later(self, reason: str, pause_s: float = 0.0) -> None:
        """qemu_chr_socket_restart_timer, or the end where there is no reconnect-ms."""
        if self._reconnect_s:
            seconds = max(self._reconnect_s, pause_s)
            self._user.awaiting(f"{reason}; trying again every {seconds:g} s")
            self._wait(seconds)
        else:
            self.state = SocketChardevState.ENDED
            self._user.awaiting(f"{reason}; there is no reconnect-ms, so it stays so")


def _nothing() -> None:
    """No lookup is under way."""

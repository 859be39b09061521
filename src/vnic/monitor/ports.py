"""The ways in which clients connect to a monitor: they connect (ServerPort), we connect (ClientPort), or stdio.

`server.py` makes one for each chardev; a port passes every connected channel to its `serve`.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from vnic.chardev.options import SocketOptions
from vnic.descriptors import close_fds
from vnic.keep import NO_KEEP, Keep
from vnic.monitor.connection import Channel, ClientConnection, SocketChannel, StdioChannel
from vnic.monitor.policy import Policy
from vnic.net.errors import NetError
from vnic.record import Record, RecordError, require
from vnic.sockets.address import FdAddress, InetAddress, UnixAddress
from vnic.sockets.bind import socket_mode
from vnic.sockets.connect import Connector, set_stream_options
from vnic.sockets.listener import (
    MANY_PEERS,
    Listener,
    Listening,
    ListeningHandles,
    ListeningRecord,
    listen_on,
    listen_on_passed,
)
from vnic.sockets.passed import socket_of_fd
from vnic.sockets.peer import credentials
from vnic.sockets.resolve import Resolved, resolve_waiting

log = logging.getLogger(__name__)

CLIENTS_MAX = 64
"""The most clients of one listening monitor; for one more, the client that has been silent longest is disconnected."""

Serve: TypeAlias = Callable[[Channel, str, Callable[[], None]], ClientConnection]
"""Start a session on a channel, for a client of that description; call the argument when it ends."""


Connected: TypeAlias = Callable[[socket.socket | None], None]
"""Called with the socket of the first client, and with None when the last one disconnects."""


@dataclass(frozen=True, slots=True)
class PortContext:
    """What a port of sockets needs."""

    loop: asyncio.AbstractEventLoop
    options: SocketOptions
    serve: Serve
    connected: Connected
    targets: Sequence[Resolved] | None
    """The resolved address, or None: it is resolved when it is used."""
    policy: Policy
    """What its clients may do."""
    keep: Keep = NO_KEEP


def key_of(chardev_id: str) -> str:
    """The key of the monitor on that chardev among what outlives the process."""
    return f"monitor/{chardev_id}"


class ServerPortRecord(Record, frozen=True):
    """The state of a ServerPort. Its clients are not part of it: they connect again."""

    address: str
    """That of the options, which may be others in another process."""
    listening: ListeningRecord


class Port(Protocol):
    """A source of clients."""

    def close(self) -> None: ...


class StdioPort:
    """The only client, at standard input and output."""

    def __init__(self, serve: Serve, *, echoes: bool) -> None:
        """`echoes`: the session echoes the input, so the terminal must not."""
        serve(StdioChannel(raw=echoes), "on stdio", lambda: None)

    def close(self) -> None:
        """Only the client's channel is open."""


class ServerPort:
    """A listening socket and its clients."""

    def __init__(self, context: PortContext) -> None:
        self._options = options = context.options
        self._serve = context.serve
        self._takes_fds = context.policy is Policy.FULL
        self._set_peer = context.connected
        self._clients: list[ClientConnection] = []
        self._full = False
        """Logged once, not for every attempt of a client."""
        listening = _inherited(context) or _listen(options, context.targets)
        warn_of_strangers(listening.socket, options.filename, context.policy)
        self._listener = Listener(
            context.loop, listening, self._accepted, options.filename, nodelay=options.nodelay
        )
        self._kept = context.keep.unit(key_of(options.id), self)

    def save_kept(self) -> tuple[ServerPortRecord, ListeningHandles]:
        listening = self._listener.listening
        record = ServerPortRecord(address=self._options.filename, listening=listening.save())
        return record, listening.handles

    def _accepted(self, client: socket.socket) -> None:
        self._make_room()
        if not self._clients:
            self._set_peer(client)
        connection = self._serve(
            _channel(client, self._options, takes_fds=self._takes_fds), describe_peer(client), self._left
        )
        if not connection.closed:  # otherwise it disconnected before the greeting
            self._clients.append(connection)

    def _left(self) -> None:
        self._clients = [each for each in self._clients if not each.closed]
        if not self._clients:
            self._set_peer(None)

    def _make_room(self) -> None:
        """Silent clients must not lock others out."""
        if len(self._clients) < CLIENTS_MAX:
            self._full = False
            return
        if not self._full:
            self._full = True
            log.warning(
                "%s: %d clients: for one more, the one that was silent longest is disconnected",
                self._options.filename,
                CLIENTS_MAX,
            )
        min(self._clients, key=lambda each: each.active_at).close()

    def close(self) -> None:
        self._listener.close()
        self._kept.end()


class ClientPort:
    """A socket that connects (`server=off`), repeatedly if `reconnect-ms` is given."""

    def __init__(self, context: PortContext) -> None:
        self._loop = context.loop
        self._options = options = context.options
        self._serve = context.serve
        self._takes_fds = context.policy is Policy.FULL
        self._set_peer = context.connected
        self._connector: Connector | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False
        self._refusal: str | None = None
        """The error of an attempt, while the first one is in progress."""
        if isinstance(options.addr, FdAddress):
            passed = socket_of_fd(options.addr.text)
            set_stream_options(passed, nodelay=options.nodelay)
            self._connected(passed)
            return
        self._address = options.addr
        self._targets = _targets(options.addr, context.targets, passive=False)
        self._starting = not options.reconnect_ms
        self._dial()
        if self._refusal is not None:
            raise NetError(self._refusal)
        self._starting = False

    def _dial(self) -> None:
        self._retry = None
        self._connector = Connector(
            self._loop,
            self._address,
            self._connected,
            self._refused,
            targets=self._targets,
            nodelay=self._options.nodelay,
        )

    def _connected(self, connected: socket.socket) -> None:
        self._set_peer(connected)
        self._serve(
            _channel(connected, self._options, takes_fds=self._takes_fds),
            describe_peer(connected),
            self._left,
        )

    def _refused(self, why: str) -> None:
        if self._starting:
            self._refusal = why
        else:
            self._again(why)

    def _left(self) -> None:
        self._set_peer(None)
        self._again("the connection ended")

    def _again(self, why: str) -> None:
        if self._closed:
            return
        if self._options.reconnect_ms:
            self._retry = self._loop.call_later(self._options.reconnect_ms / 1000, self._dial)
        else:
            log.warning("monitor %s: %s", self._options.filename, why)

    def close(self) -> None:
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self._connector is not None:
            self._connector.cancel()


def _targets(
    address: UnixAddress | InetAddress, found: Sequence[Resolved] | None, *, passive: bool
) -> Sequence[Resolved]:
    return found if found is not None else resolve_waiting(address, passive=passive)


def _inherited(context: PortContext) -> Listening | None:
    """The listening socket that the process before left, with the clients in its backlog."""
    found = context.keep.inherited(key_of(context.options.id), ServerPortRecord, ListeningHandles)
    if found is None:
        return None
    record, handles = found
    try:
        require(record.address == context.options.filename, "address", "is not that of the options")
        return Listening.taken_up(record.listening, handles)
    except RecordError as error:
        close_fds(fd for fd in handles if fd is not None)
        context.keep.refused(key_of(context.options.id), error)
        return None


def _listen(options: SocketOptions, targets: Sequence[Resolved] | None) -> Listening:
    if isinstance(options.addr, FdAddress):
        return listen_on_passed(socket_of_fd(options.addr.text), MANY_PEERS)
    targets = _targets(options.addr, targets, passive=True)
    return listen_on(targets, options.addr, socket_mode(options.mode), MANY_PEERS)


def warn_of_strangers(listening: socket.socket, name: str, policy: Policy) -> None:
    """Warn if other users can connect to a monitor that writes files and starts programs."""
    if policy is not Policy.FULL:
        return  # who sets a policy expects others
    where = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        if where[:1] in (b"\0", "\0"):
            log.warning(
                "%s: every user of this host can connect to an abstract socket, and command vnic", name
            )
    elif not ipaddress.ip_address(where[0].partition("%")[0]).is_loopback:
        log.warning("%s: every host that reaches this port can command vnic, as its user", name)


def _channel(connected: socket.socket, options: SocketOptions, *, takes_fds: bool) -> Channel:
    channel = SocketChannel(connected, takes_fds=takes_fds)
    if not options.telnet:
        return channel
    from vnic.monitor.telnet import TelnetChannel  # imported late: few monitors use it

    return TelnetChannel(channel)


PASSWD = "/etc/passwd"


@functools.lru_cache(maxsize=64)
def user_name(uid: int) -> str:
    """The name of a user of this machine, or `uid 1000`. It reads only /etc/passwd: other databases use the network,
    and the loop must not wait."""
    try:
        with open(PASSWD, encoding="utf-8", errors="replace") as passwd:
            for line in passwd:
                name, _, rest = line.partition(":")
                if rest.split(":")[1:2] == [str(uid)] and name.isprintable():
                    return name
    except OSError:
        pass  # a container may have no such file
    return f"uid {uid}"


def describe_peer(connected: socket.socket) -> str:
    """The other end, for the journal: `client python3[4711] of root`, `client 192.0.2.1:5000`."""
    try:
        if connected.family != socket.AF_UNIX:
            host, port = connected.getpeername()[:2]
            return f"client [{host}]:{port}" if ":" in host else f"client {host}:{port}"
        pid, uid, _ = credentials(connected)
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            name = comm.read().strip()
        # A program may choose any name, and it becomes part of log lines and of HMP's.
        return f"client {''.join(char if char.isprintable() else '?' for char in name)}[{pid}] of {user_name(uid)}"
    except (OSError, ValueError):
        return "client"

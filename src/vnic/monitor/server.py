"""The monitors of a machine: their chardevs, the sessions of their clients, and the delivery of events.

The machine makes one `Monitors` and adds a chardev for each `-qmp`, `-monitor` and `-mon`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

from vnic.chardev.options import SocketOptions, StdioOptions
from vnic.monitor.connection import Channel, ClientConnection, Session
from vnic.monitor.hmp_session import HmpSession
from vnic.monitor.interfaces import MonitoredMachine
from vnic.monitor.passed_fds import NamedFds, Passed
from vnic.monitor.policy import Policy
from vnic.monitor.ports import (
    ClientPort,
    Connected,
    Port,
    PortContext,
    ServerPort,
    StdioPort,
    key_of,
)
from vnic.monitor.qmp import Dispatcher, QmpSession
from vnic.net.errors import NetError
from vnic.sockets.resolve import Resolved

log = logging.getLogger(__name__)


class Mode(StrEnum):
    """The language of a monitor, as `-mon mode=` names it."""

    CONTROL = "control"
    READLINE = "readline"


class Client(Protocol):
    """One client of a monitor, over any transport: a ClientConnection, or a port of another kind."""

    session: Session

    def event(self, message: dict[str, object]) -> None:
        """Send an event to the client, if its session accepts events (`session.event`)."""

    def close(self) -> None:
        """Close it now."""


class Monitors:
    """All monitors. Call `add` before or while the loop runs, and `close` at the end.

    A port of another kind than chardevs requests a `session`, feeds it the client's input, and lets its client `join`,
    which gets events until it leaves.
    """

    def __init__(self, machine: MonitoredMachine, loop: asyncio.AbstractEventLoop) -> None:
        self._machine = machine
        self._loop = loop
        self._dispatcher = Dispatcher(machine)
        self._ports: dict[str, Port] = {}
        self._clients: list[Client] = []
        self._named: dict[str, NamedFds] = {}
        """The descriptors that `getfd` named, by monitor."""
        self._unsubscribe = machine.network.subscribe(self._event)

    def add(
        self,
        chardev: SocketOptions | StdioOptions,
        mode: Mode,
        pretty: bool = False,
        connected: Connected = lambda _: None,
        targets: Sequence[Resolved] | None = None,
        policy: Policy = Policy.FULL,
    ) -> None:
        """Open a monitor on the chardev of that id; `connected` gets the socket of its client. Raises NetError.

        `targets`: the addresses of its address, if they were looked up before; otherwise the call blocks for a name
        server. `policy`: what its clients may do.
        """
        if chardev.id in self._ports:
            raise NetError(f"Chardev '{chardev.id}' is busy")

        def serve(channel: Channel, peer: str, closed: Callable[[], None]) -> ClientConnection:
            passed = Passed(channel, self._named.setdefault(chardev.id, NamedFds()))

            def ended() -> None:
                self.leave(connection)
                closed()

            connection = ClientConnection(
                self._loop, channel, self.session(mode, peer, pretty, passed, policy), ended
            )
            self.join(connection)
            connection.start()
            return connection

        if not isinstance(chardev, SocketOptions):
            self._ports[chardev.id] = StdioPort(serve, echoes=mode is Mode.READLINE)
            return
        chardev.check()
        if chardev.server and chardev.wait:
            log.info("%s: wait=on: vnic starts without waiting for a client", chardev.filename)
        kind = ServerPort if chardev.server else ClientPort
        self._ports[chardev.id] = kind(
            PortContext(self._loop, chardev, serve, connected, targets, policy, self._machine.keep)
        )

    def is_open(self, chardev_id: str) -> bool:
        return chardev_id in self._ports

    def is_inherited(self, chardev_id: str) -> bool:
        """Whether the process before left the listening socket of that monitor."""
        keys = self._machine.keep.keys()
        return key_of(chardev_id) in keys

    def remove(self, chardev_id: str) -> None:
        """Close a monitor; its clients stay until they leave."""
        port = self._ports.pop(chardev_id, None)
        if port is not None:
            port.close()

    def session(
        self,
        mode: Mode,
        peer: str,
        pretty: bool = False,
        passed: Passed | None = None,
        policy: Policy = Policy.FULL,
    ) -> Session:
        """The session of a new client; `peer` is its name in the journal."""
        if mode is Mode.CONTROL:
            return QmpSession(self._dispatcher, f"QMP {peer}", pretty, passed, policy)
        return HmpSession(self._machine, f"HMP {peer}", passed, policy)

    def join(self, client: Client) -> None:
        """A client has connected: it gets events from now on, and is closed with the monitors."""
        self._clients.append(client)

    def leave(self, client: Client) -> None:
        """A client has disconnected. With the last QMP client the sets of `add-fd` are closed
        (monitor_fdsets_cleanup)."""
        self._clients.remove(client)
        if not any(isinstance(each.session, QmpSession) for each in self._clients):
            self._machine.fds.sets.close()

    def _event(self, name: str, data: object) -> None:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        message: dict[str, object] = {
            "timestamp": {"seconds": seconds, "microseconds": nanoseconds // 1000},
            "event": name,
        }
        if data != {}:
            message["data"] = data
        for client in list(self._clients):
            client.event(message)

    def close(self) -> None:
        """Close every listener and connection, and remove the sockets' files. It may be called again."""
        self._unsubscribe()
        self._unsubscribe = lambda: None
        for port in self._ports.values():
            port.close()
        self._ports.clear()
        for client in list(self._clients):
            client.close()
        for named in self._named.values():
            named.close()

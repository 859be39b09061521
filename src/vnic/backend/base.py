"""What every back-end (netdev) is built on: its surroundings, the BackendContext, and the base class of its Endpoint.

A back-end opens its sockets in `start`, waits for them through `loop.add_reader`, and says with a hold when the far
end of its wire is missing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vnic.backend.hub import Hubs
from vnic.backend.interface_watch import InterfaceWatch
from vnic.backend.options import NetdevOptions
from vnic.net.client import Endpoint
from vnic.net.errors import NetError
from vnic.net.network import Network
from vnic.net.records import HoldKind

if TYPE_CHECKING:
    from vnic.chardev.options import ChardevOptions
    from vnic.sockets.listener import Listening

log = logging.getLogger("vnic.backend")

READ_BUDGET_FRAMES = 64
"""Frames that a reader takes in one turn of the loop, so that a flood on one wire starves no other
(tap_send of QEMU's net/tap.c stops after 50)."""
READ_BUDGET_S = 0.002
"""And for how long, where one frame is a thousand to those behind it: a hub's ports, segments."""


class Chardev(Protocol):
    """A named address that a back-end or filter may claim and open (`-chardev`)."""

    label: str
    options: ChardevOptions
    connected: bool
    listener: Listening | None
    """What it listens on already; None: its user has to open it."""
    passed: socket.socket | None
    """The connected socket that its `fd=` named."""

    def claim(self, user: str, *, listens: bool = True) -> None:
        """Take it into use; NetError while another has it. `listens`: what the peer says is wanted."""

    def set_connected(self, sock: socket.socket | None) -> None:
        """Tell of the peer, or that it went."""

    def release(self) -> None: ...


class ChardevTable(Protocol):
    def find(self, label: str) -> Chardev:
        """The chardev of that label; NetError (`chardev "c0" not found`) where there is none."""
        ...

    def remove(self, label: str) -> None:
        """Delete the chardev, which nobody uses."""
        ...


class NoChardevs:
    """The chardev table of a vnic without any."""

    def find(self, label: str) -> Chardev:
        raise NetError(f'chardev "{label}" not found')

    def remove(self, label: str) -> None:
        """Never called: `find` gave nothing out."""


class FdTable(Protocol):
    """What `fd=` of an option names; the descriptor, non-blocking, belongs to the caller. Both raise NetError."""

    def take(self, name: str) -> int:
        """By number, or by the name that QMP's getfd gave."""

    def take_socket(self, name: str) -> int:
        """A socket."""


class NoFds:
    """The descriptors of a vnic that was given none."""

    def take(self, name: str) -> int:
        raise NetError(f"File descriptor named '{name}' has not been found")

    take_socket = take


@dataclass
class BackendContext:
    """What a back-end is given to live in: one for each machine."""

    loop: asyncio.AbstractEventLoop
    network: Network
    chardevs: ChardevTable = field(default_factory=NoChardevs)
    hubs: Hubs = field(default_factory=Hubs)
    fds: FdTable = field(default_factory=NoFds)
    coming: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Netdevs that wait for a name server or a helper before they are there, by id."""
    leaving: dict[asyncio.Task[None], str] = field(default_factory=dict)
    """What deleted netdevs still have to wait for (a `downscript`), and their ids."""
    interfaces: InterfaceWatch = field(init=False)
    """The host's network interfaces, for those that follow one."""
    restarts: int = 0
    """How often a program that belongs to a back-end was started again, for query-vnic."""

    def __post_init__(self) -> None:
        self.interfaces = InterfaceWatch(self.loop)

    def leave(self, netdev_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Run the last of a netdev beside the loop."""
        task = self.loop.create_task(work)
        self.leaving[task] = netdev_id
        task.add_done_callback(self.leaving.pop)

    def leaving_of(self, netdev_id: str) -> asyncio.Task[None] | None:
        """The last of the newest netdev of that id, while it lasts."""
        return next((task for task, each in reversed(self.leaving.items()) if each == netdev_id), None)

    def emit(self, event: str, data: dict[str, object]) -> None:
        """Send a QMP event to every monitor."""
        self.network.emit(event, data)


class Backend(Endpoint):
    """An Endpoint behind a netdev's client."""

    queues = 1
    """How many queues the client gets; final before `start`."""

    def __init__(self, context: BackendContext) -> None:
        self.context = context
        self.loop = context.loop

    def preparation(self) -> Coroutine[Any, Any, None] | None:
        """What has to be waited for before `start`: a host name, a helper. Bounded; a NetError refuses the netdev.

        None: nothing. The netdev is not there before, and QEMU's clients wait for their reply as long.
        """
        return None

    @property
    def name(self) -> str:
        """The netdev's id."""
        return self.client.name

    def hold_disconnected(self, text: str) -> None:
        """Keep the wire down because the far end is not there; `text` says what is awaited."""
        there = self.client.holds.get(HoldKind.DISCONNECTED)
        if there is None or there.text != text:
            self.client.hold(HoldKind.DISCONNECTED, self.name, text)

    def release_disconnected(self, text: str) -> None:
        """The far end is there."""
        self.client.release(HoldKind.DISCONNECTED, self.name, text)


@dataclass(frozen=True, slots=True)
class NetdevType:
    """One type of netdev: a row of the registry."""

    name: str
    options: type[NetdevOptions]
    """The Struct that argument checking and query-qmp-schema walk."""
    desc: str
    """One line for `-netdev help`."""
    create: Callable[[BackendContext, Any], Backend]
    """Makes the endpoint from the context and an instance of `options`. It opens nothing; `start` does."""

"""The basis of every back-end (netdev): the BackendContext and the base class of its Endpoint.

The machine makes the context, and the registry makes back-ends from it. A back-end opens its sockets in `start`, waits
for them through `loop.add_reader`, and sets a hold while the far end of its wire is missing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from vnic.backend.cables import Cables
from vnic.backend.hub import Hubs
from vnic.backend.interface_watch import InterfaceWatch
from vnic.backend.items import Items
from vnic.backend.options import NetdevOptions
from vnic.keep import Keep, take_place
from vnic.net.client import Endpoint
from vnic.net.errors import NetError
from vnic.net.network import Network
from vnic.net.records import HoldKind
from vnic.record import Record
from vnic.virtio.attachment import VirtioHandles

if TYPE_CHECKING:
    from vnic.chardev.options import ChardevOptions
    from vnic.sockets.listener import Listening

log = logging.getLogger("vnic.backend")

READ_BUDGET_FRAMES = 64
"""The most frames that a reader takes in one turn of the loop, so that a flood on one wire starves no other (tap_send
of QEMU's net/tap.c stops after 50)."""
READ_BUDGET_S = 0.002
"""The most time of a reader in one turn, since one frame can cause thousands: a hub's ports, segments."""


class Chardev(Protocol):
    """A named address that a back-end or filter may claim and open (`-chardev`)."""

    label: str
    options: ChardevOptions
    connected: bool
    listener: Listening | None
    """The socket on which it listens already; None: its user opens it."""
    passed: socket.socket | None
    """The connected socket that its `fd=` named."""

    def close_passed(self) -> None:
        """Close that one."""

    def claim(self, user: str, *, listens: bool = True) -> None:
        """Reserve the chardev; NetError if it has a user. `listens`: the user reads what the peer sends."""

    def set_connected(self, sock: socket.socket | None) -> None:
        """Record the peer's socket, or None when it has disconnected."""

    def release(self) -> None: ...


class ChardevTable(Protocol):
    def find(self, label: str) -> Chardev:
        """The chardev with that label; NetError (`chardev "c0" not found`) if there is none."""
        ...

    def remove(self, label: str) -> None:
        """Delete a chardev that has no user."""
        ...


class NoChardevs:
    """The chardev table of a vnic without chardevs."""

    def find(self, label: str) -> Chardev:
        raise NetError(f'chardev "{label}" not found')

    def remove(self, label: str) -> None:
        """Never called: `find` returns no chardev."""


class FdTable(Protocol):
    """The descriptors that `fd=` of an option can name. The caller owns the result, which is non-blocking; both methods
    raise NetError."""

    def take(self, name: str) -> int:
        """Take a descriptor by its number, or by the name that QMP's getfd gave it."""

    def take_socket(self, name: str) -> int:
        """Take a socket."""


class NoFds:
    """The descriptor table of a vnic without passed descriptors."""

    def take(self, name: str) -> int:
        raise NetError(f"File descriptor named '{name}' has not been found")

    take_socket = take


@dataclass
class BackendContext:
    """What a back-end needs from the machine: one for each machine."""

    loop: asyncio.AbstractEventLoop
    network: Network
    chardevs: ChardevTable = field(default_factory=NoChardevs)
    hubs: Hubs = field(default_factory=Hubs)
    cables: Cables[Any] = field(default_factory=Cables)
    tunnel_sockets: dict[Any, Any] = field(default_factory=dict)
    """The sockets that tunnels share (`tunnel.sockets`), by local address."""
    fds: FdTable = field(default_factory=NoFds)
    items: Items = field(default_factory=Items)
    coming: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Netdevs whose creation waits for a name server or a helper, by id."""
    leaving: dict[asyncio.Task[None], str] = field(default_factory=dict)
    """Tasks of deleted netdevs that still run (a `downscript`), and their ids."""
    interfaces: InterfaceWatch = field(init=False)
    """The host's network interfaces, for back-ends that follow one."""
    restarts: int = 0
    """How often programs of back-ends were restarted, for query-vnic."""

    def __post_init__(self) -> None:
        self.interfaces = InterfaceWatch(self.loop)

    @property
    def keep(self) -> Keep:
        """What outlives the process."""
        return self.items.keep

    def leave(self, netdev_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Run the last task of a netdev beside the loop."""
        task = self.loop.create_task(work)
        self.leaving[task] = netdev_id
        task.add_done_callback(self.leaving.pop)

    def leaving_of(self, netdev_id: str) -> asyncio.Task[None] | None:
        """The last task of the newest deleted netdev with that id, while it runs."""
        return next((task for task, each in reversed(self.leaving.items()) if each == netdev_id), None)

    def emit(self, event: str, data: dict[str, object]) -> None:
        """Send a QMP event to every monitor."""
        self.network.emit(event, data)


class Backend(Endpoint):
    """The Endpoint of a netdev's client."""

    queues = 1
    """The number of queues of the client; final before `start`."""

    def __init__(self, context: BackendContext) -> None:
        self.context = context
        self.loop = context.loop

    def preparation(self) -> Coroutine[Any, Any, None] | None:
        """The task that has to finish before `start`: a host name lookup, a helper.

        It is bounded in time; a NetError refuses the netdev. None: there is nothing to wait for. The netdev does not
        exist before, and the client that adds it waits for its reply.
        """
        return None

    @property
    def name(self) -> str:
        """The netdev's id."""
        return self.client.name

    # -- what outlives the process ------------------------------------------------------------------------------

    kept_type: ClassVar[tuple[type[Record], Any] | None] = None
    """The types of what `save_kept` returns; None: nothing but the client is kept."""
    age_us = 0
    guest: VirtioHandles | None = None
    """While it is restored: the time since its record was saved, and see `restore_kept`."""

    @property
    def key(self) -> str:
        """That of its unit."""
        return f"netdev/{self.name}"

    def save_kept(self) -> tuple[Record, object]:
        """See Unit. Overridden where there is a `kept_type`."""
        raise NotImplementedError

    def take_up(self, record: Any, handles: Any) -> None:
        """Go on with what the process before has kept; in place of `start`. The descriptors are its own, also if it
        raises RecordError. Overridden where there is a `kept_type`."""

    def start_kept(self) -> None:
        """`start`, and keep it from now on. Raises NetError."""
        self.start()
        self._keep()

    def restore_kept(self, guest: VirtioHandles | None = None) -> bool:
        """Go on where the process before was killed; called in place of `start_kept`, after which it is as that one
        left it. False: there is no record, or it was refused; nothing is open, and `start_kept` may be called. `guest`:
        what the device of the NIC has by now, for a netdev that may have its rings. Raises NetError as `start`."""
        if self.kept_type is None:
            self.start()
            return True
        self.guest = guest
        try:
            taken = take_place(self.context.keep, self, *self.kept_type)
        finally:
            self.guest = None
        if taken:
            self.loop.call_soon(self._release_again)
        return taken

    def _keep(self) -> None:
        if self.kept_type is not None:
            self.kept = self.context.keep.unit(self.key, self)

    def far_end_text(self) -> str | None:
        """Why nothing of the kind `disconnected` holds the link, as `release_disconnected` says it; None: something
        does, or that is not known."""
        return None

    def _release_again(self) -> None:
        """The process before may have been killed after it kept that the far end is connected, and before it released
        the hold."""
        text = self.far_end_text()
        if text is not None:
            self.client.release(HoldKind.DISCONNECTED, self.name, text)

    def moved(self) -> None:
        """Its state differs, or what it has open (see `Lifecycle`)."""
        self.kept.handles_changed()

    # -- link ---------------------------------------------------------------------------------------------------

    def hold_disconnected(self, text: str) -> None:
        """Keep the link down because the far end is missing; `text` says what the netdev waits for."""
        there = self.client.holds.get(HoldKind.DISCONNECTED)
        if there is None or there.text != text:
            self.client.hold(HoldKind.DISCONNECTED, self.name, text)

    def release_disconnected(self, text: str) -> None:
        """Release the hold: the far end is connected. That is kept before the guest hears of it, if `far_end_text`
        tells the next process to do this again. It must not be called while a message is processed whose effects are
        saved together."""
        self.kept.handles_changed()
        if self.far_end_text() is not None:
            self.context.keep.commit()
        self.client.release(HoldKind.DISCONNECTED, self.name, text)


@dataclass(frozen=True, slots=True)
class NetdevType:
    """One type of netdev: a row of the registry."""

    name: str
    options: type[NetdevOptions]
    """The Struct that argument checking and query-qmp-schema read."""
    desc: str
    """One line for `-netdev help`."""
    create: Callable[[BackendContext, Any], Backend]
    """Makes the endpoint from the context and an instance of `options`. It opens nothing before `start`."""

"""One VM at one NIC, from its connection until all its resources are released: the common part of both attachments.

`vhost_user.session` and `vfio_user.session` are based on it; the attachment that made a session is its `SessionHost`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
from abc import ABC, abstractmethod
from typing import ClassVar, Final, Protocol

from vnic.attach.unsealed import warn_of_unsealed
from vnic.keep import NO_KEPT, Kept
from vnic.lifecycle import Lifecycle, Moves
from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.net.client import Nic
from vnic.net.records import ShownBy
from vnic.quota import QUOTA, TooManyDescriptors
from vnic.sockets.connection import Connection
from vnic.sockets.kept_connection import KeptConnection

log = logging.getLogger(__name__)


class SessionState(enum.Enum):
    """The state of a session."""

    SERVING = enum.auto()
    DRAINING = enum.auto()
    """vfio-user is about to close: the guest may still handle its last interrupt."""
    HALF_CLOSED = enum.auto()
    """vfio-user is about to close: the VM has been notified, and its input is dropped."""
    LEFT = enum.auto()
    """The connection is closed; a back-end may still have the rings."""
    RELEASED = enum.auto()
    """The VM's memory is not accessed any more, and all its resources are released."""


SESSION_MOVES: Final[Moves[SessionState]] = {
    SessionState.SERVING: frozenset({SessionState.DRAINING, SessionState.LEFT}),
    SessionState.DRAINING: frozenset({SessionState.HALF_CLOSED, SessionState.LEFT}),
    SessionState.HALF_CLOSED: frozenset({SessionState.LEFT}),
    SessionState.LEFT: frozenset({SessionState.RELEASED}),
    SessionState.RELEASED: frozenset(),
}


class SessionHost(Protocol):
    """What a session needs from the attachment that made it."""

    def negotiated(self) -> None:
        """The VM has negotiated the protocol."""

    def leaving(self, *, violated: bool) -> None:
        """The session disconnects its VM; `violated`: because of data that the VM sent."""

    def released(self) -> None:
        """The session has ended: the next VM may connect. It is called once, after `leaving`, perhaps within
        `leave`."""


class Session(ABC):
    """A VM's connection, its memory and the state of its protocol. It is the ConnectionUser of its connection."""

    LEFT_TEXT: ClassVar[str]
    """For the log: the VM closed the connection, or the connection failed."""
    CUT_OFF_TEXT: ClassVar[str]
    """For the log: the attachment closed it."""
    CUT_SHORT_TEXT: ClassVar[str]
    """For the log: the connection ended within a message."""

    state = Lifecycle(SessionState.SERVING, SESSION_MOVES)
    shown_by: ShownBy | None = None
    """How the VM learns of the link; None until that is known."""

    def __init__(
        self,
        host: SessionHost,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        nic: Nic,
        *,
        max_fds: int,
        kept: Kept = NO_KEPT,
        outbox: int | None = None,
    ) -> None:
        """Nothing is read before the loop's next turn. `max_fds` is the most descriptors in one message of the VM.
        `outbox`: that of a KeptConnection, which saves through `kept`; None: nothing is kept."""
        self.memory = GuestMemory()
        self._host = host
        self._loop = loop
        self._nic = nic
        self._name = nic.name
        warn_of_unsealed(self.memory, self._name)
        self._kept = kept
        self._held = QUOTA.join(self._name, lambda: self.descriptors)
        self._connection = (
            Connection(loop, sock, self, max_fds=max_fds, owner=self._name, holding=self._held)
            if outbox is None
            else self._kept_connection(sock, max_fds, outbox)
        )

    def _kept_connection(self, sock: socket.socket, max_fds: int, outbox: int) -> Connection:
        return KeptConnection(
            self._loop,
            sock,
            self,
            self._kept,
            max_fds=max_fds,
            owner=self._name,
            holding=self._held,
            outbox=outbox,
        )

    # --- What the protocol fills in ---

    @property
    @abstractmethod
    def descriptors(self) -> int:
        """The VM's descriptors that are held, or that may still have to be held."""

    @property
    @abstractmethod
    def pending(self) -> bool:
        """Part of a message has arrived."""

    @property
    @abstractmethod
    def wanted(self) -> int:
        """ConnectionUser: the most bytes to read."""

    @abstractmethod
    def received(self, data: bytes, fds: list[int]) -> None:
        """ConnectionUser: process one piece from the VM."""

    @abstractmethod
    def close(self) -> None:
        """End in order, now or later, because the NIC is removed."""

    @abstractmethod
    def _unplug(self) -> None:
        """Detach the VM from the device; `_released` is called, now or later, when its memory is not accessed any
        more."""

    # --- The next process ---

    @property
    def socket_fds(self) -> tuple[int, int]:
        """The socket and the outbox, where something is kept."""
        assert isinstance(self._connection, KeptConnection)
        return self._connection.sock.fileno(), self._connection.outbox

    def _count_descriptors(self) -> None:
        """Tell the quota what a restored session holds."""
        try:
            self._held.received(self.descriptors)
        except TooManyDescriptors as error:
            text = str(error)
            self._loop.call_soon(lambda: self.cut_off(text) if self.serving else None)

    def go_on(self) -> None:
        """All else is restored: serve the VM again."""
        if isinstance(self._connection, KeptConnection):
            self._connection.go_on()

    def refuse(self) -> None:
        """End a session that was restored, before `go_on`: the record of it, or of its device, is refused."""
        Session.state.restore(self, SessionState.RELEASED)
        self._connection.close()
        self.memory.close()
        self._connection.released()

    # --- The end ---

    @property
    def serving(self) -> bool:
        """The VM is connected, as far as is known."""
        return self.state is SessionState.SERVING

    def check_peer(self) -> None:
        """Disconnect a VM that was killed while messages of it wait: they have no effect any more."""
        if self.serving and self._connection.is_abandoned():
            self._connection.close()
            self.lost(None)

    def check_memory(self) -> None:
        """Disconnect the VM if it truncated memory that it shares."""
        if self.state not in (SessionState.LEFT, SessionState.RELEASED):
            try:
                self.memory.check()
            except GuestMemoryError as error:
                self.cut_off(str(error))

    def lost(self, reason: str | None) -> None:
        """ConnectionUser: the VM closed its end, sent data that is refused, or the socket failed (`reason`)."""
        violated = reason is not None
        if self.pending and reason is None:
            reason = self.CUT_SHORT_TEXT
        level = logging.WARNING if violated else logging.INFO
        log.log(level, "%s: %s%s", self._name, self.LEFT_TEXT, f": {reason}" if reason else "")
        self.leave(violated=violated)

    def cut_off(self, reason: str) -> None:
        """Disconnect a VM that broke the protocol."""
        log.warning("%s: %s: %s", self._name, self.CUT_OFF_TEXT, reason)
        self.leave(violated=True)

    def leave(self, *, violated: bool = False) -> None:
        """Disconnect the VM; its device is reset to its power-on state."""
        self.state = SessionState.LEFT
        self._host.leaving(violated=violated)
        self._connection.close()
        self._nic.report.guest_detached(ShownBy.SOCKET if self.shown_by is ShownBy.SOCKET else None)
        self._unplug()

    def _released(self) -> None:
        self.state = SessionState.RELEASED
        self.memory.close()
        self._connection.released()
        self._host.released()

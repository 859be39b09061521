"""One VM at one NIC: what both kinds of attachment share of the time from its connection until nothing of it is held.

`vhost_user.session` and `vfio_user.session` build on it; the attachment that made a session is its `SessionHost`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
from abc import ABC, abstractmethod
from typing import ClassVar, Final, Protocol

from vnic.attach.unsealed import tell_of_unsealed
from vnic.lifecycle import Lifecycle, Moves
from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.net.client import Nic
from vnic.net.records import ShownBy
from vnic.quota import QUOTA
from vnic.sockets.connection import Connection

log = logging.getLogger(__name__)


class SessionState(enum.Enum):
    """How far a session has come."""

    SERVING = enum.auto()
    DRAINING = enum.auto()
    """vfio-user is about to close: the guest may still take its last interrupt."""
    HALF_CLOSED = enum.auto()
    """vfio-user is about to close: the VM has been told, and what it still sends is read and dropped."""
    LEFT = enum.auto()
    """The connection is closed; a back-end may still have the rings."""
    RELEASED = enum.auto()
    """Nothing touches the VM's memory any more, and nothing of it is held."""


SESSION_MOVES: Final[Moves[SessionState]] = {
    SessionState.SERVING: frozenset({SessionState.DRAINING, SessionState.LEFT}),
    SessionState.DRAINING: frozenset({SessionState.HALF_CLOSED, SessionState.LEFT}),
    SessionState.HALF_CLOSED: frozenset({SessionState.LEFT}),
    SessionState.LEFT: frozenset({SessionState.RELEASED}),
    SessionState.RELEASED: frozenset(),
}


class SessionHost(Protocol):
    """What a session tells the attachment that made it."""

    def negotiated(self) -> None:
        """The VM speaks the protocol."""

    def leaving(self, *, violated: bool) -> None:
        """The session parts from its VM; `violated`: because of what the VM sent."""

    def released(self) -> None:
        """The session is over: the next VM may come. Called once, after `leaving`, perhaps from within `leave`."""


class Session(ABC):
    """A VM's connection, its memory and what its protocol keeps. It is the ConnectionUser of its connection."""

    LEFT_TEXT: ClassVar[str]
    """For the log, where the VM closed the connection or the connection failed."""
    CUT_OFF_TEXT: ClassVar[str]
    """For the log, where the attachment closed it."""
    CUT_SHORT_TEXT: ClassVar[str]
    """For the log, where the connection ended within a message."""

    state = Lifecycle(SessionState.SERVING, SESSION_MOVES)
    shown_by: ShownBy | None = None
    """How the VM is shown the link; None until that is known."""

    def __init__(
        self,
        host: SessionHost,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        nic: Nic,
        *,
        max_fds: int,
    ) -> None:
        """Nothing is read before the loop's next turn. `max_fds` is the most that one message of the VM may carry."""
        self.memory = GuestMemory()
        self._host = host
        self._loop = loop
        self._nic = nic
        self._name = nic.name
        tell_of_unsealed(self.memory, self._name)
        held = QUOTA.join(self._name, lambda: self.descriptors)
        self._connection = Connection(loop, sock, self, max_fds=max_fds, owner=self._name, holding=held)

    # --- What the protocol fills in ---

    @property
    @abstractmethod
    def descriptors(self) -> int:
        """How many of the VM's descriptors are held, or may come to be held."""

    @property
    @abstractmethod
    def pending(self) -> bool:
        """A message has begun and is not complete."""

    @property
    @abstractmethod
    def wanted(self) -> int:
        """ConnectionUser: read at most so many bytes."""

    @abstractmethod
    def received(self, data: bytes, fds: list[int]) -> None:
        """ConnectionUser: one piece that the VM sent."""

    @abstractmethod
    def close(self) -> None:
        """End in order, now or later, because the NIC goes."""

    @abstractmethod
    def _unplug(self) -> None:
        """Take the VM off the device; `_released` is called, now or later, when nothing touches its memory."""

    # --- The end ---

    @property
    def serving(self) -> bool:
        """The VM is there, as far as is known."""
        return self.state is SessionState.SERVING

    def check_peer(self) -> None:
        """Part from a VM that was killed behind messages that are not carried out yet: none of them matters any
        more."""
        if self.serving and self._connection.is_abandoned():
            self._connection.close()
            self.lost(None)

    def check_memory(self) -> None:
        """Cut the VM off if it took memory away that it shares."""
        if self.state not in (SessionState.LEFT, SessionState.RELEASED):
            try:
                self.memory.check()
            except GuestMemoryError as error:
                self.cut_off(str(error))

    def lost(self, reason: str | None) -> None:
        """ConnectionUser: the VM closed its end, or it sent what is refused, or the socket failed (`reason`)."""
        violated = reason is not None
        if self.pending and reason is None:
            reason = self.CUT_SHORT_TEXT
        level = logging.WARNING if violated else logging.INFO
        log.log(level, "%s: %s%s", self._name, self.LEFT_TEXT, f": {reason}" if reason else "")
        self.leave(violated=violated)

    def cut_off(self, reason: str) -> None:
        """Part from a VM that broke the protocol."""
        log.warning("%s: %s: %s", self._name, self.CUT_OFF_TEXT, reason)
        self.leave(violated=True)

    def leave(self, *, violated: bool = False) -> None:
        """Part from the VM; its device goes back to power-on."""
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

"""The socket of one NIC, which exists longer than its VMs: the common part of both kinds of attachment.

The machine makes, starts and closes attachments. An attachment owns the path, the gate and the wait for the next VM.
The state of one connected VM is the `Session`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final, Generic, TypeVar

from vnic.attach.gate import Gate
from vnic.attach.session import Session
from vnic.lifecycle import Lifecycle, Moves
from vnic.memory.guest import GuestMemory
from vnic.net.client import Nic
from vnic.sockets.peer import peer_name

log = logging.getLogger(__name__)

SessionT = TypeVar("SessionT", bound=Session)


class AttachmentState(enum.Enum):
    """The state of an attachment."""

    CLOSED = enum.auto()
    WAITING = enum.auto()
    """It listens, or tries to connect."""
    ATTACHED = enum.auto()
    """A VM is connected."""
    LEAVING = enum.auto()
    """The VM has disconnected and a back-end still has its rings; the next VM has to wait."""
    CLOSING = enum.auto()
    """The VM is disconnecting, and no other follows."""
    WITHHELD = enum.auto()
    """The socket is closed to show the VM that the link is down (vhost-user)."""


MOVES: Final[Moves[AttachmentState]] = {
    AttachmentState.CLOSED: frozenset({AttachmentState.WAITING}),
    AttachmentState.WAITING: frozenset({AttachmentState.ATTACHED, AttachmentState.CLOSED}),
    AttachmentState.ATTACHED: frozenset({AttachmentState.LEAVING, AttachmentState.CLOSING}),
    AttachmentState.LEAVING: frozenset(
        {AttachmentState.WAITING, AttachmentState.WITHHELD, AttachmentState.CLOSING}
    ),
    AttachmentState.CLOSING: frozenset({AttachmentState.CLOSED}),
    AttachmentState.WITHHELD: frozenset({AttachmentState.WAITING, AttachmentState.CLOSED}),
}


class VmAttachment(ABC, Generic[SessionT]):
    """One NIC's socket, for one VM at a time."""

    COME_TEXT: ClassVar[str]
    REFUSED_TEXT: ClassVar[str]
    """For the log; each text takes the name of the peer."""

    state = Lifecycle(AttachmentState.CLOSED, MOVES)

    def __init__(self, loop: asyncio.AbstractEventLoop, nic: Nic, path: str) -> None:
        self._loop = loop
        self._nic = nic
        self.path = path
        self.session: SessionT | None = None
        """The session of the connected VM, or of the last VM while a back-end has its rings."""
        self._gate = Gate(nic.name, loop)
        self._when_closed: list[Callable[[], None]] = []

    # --- What the kind of attachment fills in ---

    @abstractmethod
    def start(self) -> None:
        """Open the socket. Raises NetError if that fails."""

    @abstractmethod
    def _begin(self, sock: socket.socket) -> SessionT:
        """Make the session of the VM at the other end."""

    @abstractmethod
    def _wait(self) -> None:
        """Wait for the next VM."""

    @abstractmethod
    def _stop_waiting(self) -> None:
        """Remove the path; no further VM is accepted."""

    def _keep(self, sock: socket.socket) -> bool:
        """Let a VM that connects while another is connected wait. False: it is refused."""
        return False

    # --- Connect and disconnect (SessionHost) ---

    def _accepted(self, sock: socket.socket) -> None:
        if self.session is not None:
            self.session.check_peer()
        if self.state is AttachmentState.WAITING:
            self._attach(sock)
        elif not self._keep(sock):
            log.warning("%s: %s", self._nic.name, self.REFUSED_TEXT.format(peer_name(sock)))
            sock.close()

    def _attach(self, sock: socket.socket) -> None:
        log.info("%s: %s", self._nic.name, self.COME_TEXT.format(peer_name(sock)))
        self.state = AttachmentState.ATTACHED
        self.session = session = self._begin(sock)
        self._nic.report.guest_attached(session.shown_by)

    def negotiated(self) -> None:
        self._gate.negotiated()

    def leaving(self, *, violated: bool) -> None:
        self._gate.ended(violated=violated)
        if self.state is AttachmentState.ATTACHED:
            self.state = AttachmentState.LEAVING

    def released(self) -> None:
        self.session = None
        if self.state is AttachmentState.LEAVING:
            self._wait()
        else:
            self._closed()

    # --- For the machine ---

    def check_memory(self) -> None:
        """Disconnect the VM if it truncated memory that it shares."""
        if self.session is not None:
            self.session.check_memory()

    def guest_memory(self) -> GuestMemory | None:
        """The memory of the connected VM, or of the last VM while a back-end has its rings."""
        return self.session.memory if self.session is not None else None

    def close(self, done: Callable[[], None] | None = None) -> None:
        """Disconnect the VM in order, close everything and remove the path. It may be called in any state. `done` is
        called, now or later, when the VM's memory is not accessed any more."""
        if done is not None:
            self._when_closed.append(done)
        self._stop_waiting()
        if self.session is None:
            self._closed()
        elif self.state is not AttachmentState.CLOSING:
            self.state = AttachmentState.CLOSING
            if self.session.serving:
                self.session.close()

    def _closed(self) -> None:
        self.state = AttachmentState.CLOSED
        callbacks, self._when_closed = self._when_closed, []
        for callback in callbacks:
            callback()

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
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

from vnic.attach.gate import Gate, GateRecord
from vnic.attach.session import Session
from vnic.descriptors import close_fds
from vnic.keep import NO_KEEP, NO_KEPT, Keep, Kept, descriptors_of
from vnic.lifecycle import Lifecycle, Moves
from vnic.memory.guest import GuestMemory
from vnic.net.client import Nic
from vnic.record import Record, RecordError, require
from vnic.sockets import unblock
from vnic.sockets.listener import Listener, Listening, ListeningHandles, ListeningRecord
from vnic.sockets.outbox import new_outbox
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


class AttachmentRecord(Record, frozen=True):
    """The state of a VmAttachment without its session. An attachment whose VM is leaving waits, or withholds: that VM
    has no part in what follows."""

    path: str
    state: Literal["waiting", "attached", "withheld"]
    gate: GateRecord
    listening: ListeningRecord | None

    def check(self, path: str, listening: ListeningHandles | None) -> None:
        """Raise RecordError unless it is that of the attachment at `path`, with these descriptors."""
        require(self.path == path, "path", f"is {self.path!a}, not {path!a}")
        told = self.listening is not None
        fits = told is (listening is not None)
        require(fits, "listening", "does not go with the descriptors that were passed")
        require(not told or self.state != "withheld", "listening", "does not go with withheld")


class VmAttachment(ABC, Generic[SessionT]):
    """One NIC's socket, for one VM at a time.

    Where there is a keeper, it is the unit `vm/NAME`, with its session: `restore` takes the place of `start` in a
    process that takes another's place.
    """

    COME_TEXT: ClassVar[str]
    REFUSED_TEXT: ClassVar[str]
    """For the log; each text takes the name of the peer."""

    state = Lifecycle(AttachmentState.CLOSED, MOVES, told="_moved")

    def __init__(self, loop: asyncio.AbstractEventLoop, nic: Nic, path: str, keep: Keep = NO_KEEP) -> None:
        self._loop = loop
        self._nic = nic
        self.path = path
        self._keep = keep
        self._key = f"vm/{nic.name}"
        self._kept: Kept = NO_KEPT
        self._dormant = False
        """It was restored, and does not go on yet."""
        self._listener: Listener | None = None
        self.session: SessionT | None = None
        """The session of the connected VM, or of the last VM while a back-end has its rings."""
        self._gate = Gate(nic.name, loop)
        self._when_closed: list[Callable[[], None]] = []

    # --- What the kind of attachment fills in ---

    @abstractmethod
    def start(self) -> None:
        """Open the socket. Raises NetError if that fails."""

    def restore(self) -> bool:
        """Take up what the process before left at this key: the listening socket, the VM. False: there is nothing, or
        it was refused, and `start` is to follow. Nothing is done in the VM's name before `go_on`."""
        return False

    @property
    @abstractmethod
    def device_handles(self) -> Any:
        """After `restore`: what `restore` of the device model takes, with the VM or without one."""

    def save_kept(self) -> tuple[Record, object]:
        """Unit of the keep. It is not called while the NIC is being removed."""
        return self._save(), None if self._listener is None else self._listener.listening.handles

    @abstractmethod
    def _begin(self, sock: socket.socket, outbox: int | None) -> SessionT:
        """Make the session of the VM at the other end. `outbox` as for a KeptConnection; None: nothing is kept."""

    @abstractmethod
    def _wait(self) -> None:
        """Wait for the next VM."""

    def _stop_waiting(self) -> None:
        """Remove the path; no further VM is accepted."""
        self._close_listener()

    def _let_wait(self, sock: socket.socket) -> bool:
        """Let a VM that connects while another is connected wait. False: it is refused."""
        return False

    # --- Connect and disconnect (SessionHost) ---

    def _accepted(self, sock: socket.socket) -> None:
        if self.session is not None:
            self.session.check_peer()
        if self.state is AttachmentState.WAITING:
            self._attach(sock)
        elif not self._let_wait(sock):
            log.warning("%s: %s", self._nic.name, self.REFUSED_TEXT.format(peer_name(sock)))
            unblock.close_stream(sock, self._nic.name)

    def _attach(self, sock: socket.socket) -> None:
        try:
            outbox = new_outbox() if self._keep.active else None
        except OSError as error:
            log.warning("%s: no client is taken: %s", self._nic.name, error.strerror)
            unblock.close_stream(sock, self._nic.name)
            return
        log.info("%s: %s", self._nic.name, self.COME_TEXT.format(peer_name(sock)))
        self.state = AttachmentState.ATTACHED
        self.session = session = self._begin(sock, outbox)
        self._moved()
        self._keep.commit()  # at once: a VM whose connection no process knows would be lost
        self._nic.report.guest_attached(session.shown_by)

    def negotiated(self) -> None:
        self._gate.negotiated()
        self._kept.changed()

    def leaving(self, *, violated: bool) -> None:
        self._gate.ended(violated=violated)
        self._moved()
        if self.state is AttachmentState.ATTACHED:
            self.state = AttachmentState.LEAVING

    def released(self) -> None:
        self.session = None
        if self.state is AttachmentState.LEAVING:
            self._wait()
        else:
            self._closed()

    # --- The next process ---

    def _moved(self) -> None:
        self._kept.changed()
        self._kept.handles_changed()

    def _begin_keeping(self) -> None:
        self._kept = self._keep.unit(self._key, self)

    def _save(self, *, withheld: bool = False) -> AttachmentRecord:
        state: Literal["waiting", "attached", "withheld"] = "withheld" if withheld else "waiting"
        return AttachmentRecord(
            path=self.path,
            state="attached" if self.state is AttachmentState.ATTACHED else state,
            gate=self._gate.save(),
            listening=None if self._listener is None else self._listener.listening.save(),
        )

    def _take_up(self, record: AttachmentRecord, listening: ListeningHandles | None) -> None:
        """Take up all but the session; the listener is paused. Raises RecordError, and leaves the descriptors to the
        caller then."""
        record.check(self.path, listening)
        if record.listening is not None and listening is not None:
            taken_up = Listening.taken_up(record.listening, listening)
            if taken_up.path is None or taken_up.path.is_there:
                self._listen_on(taken_up)
            else:  # the process before was killed after it had removed it; `go_on` listens anew
                taken_up.close()
        if self._listener is not None:
            self._listener.pause()

    def _listen_on(self, listening: Listening) -> None:
        self._listener = Listener(self._loop, listening, self._accepted, self.path, gate=self._gate)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _taken_up(self, record: AttachmentRecord, session: SessionT | None) -> None:
        """The end of `restore`."""
        self._dormant = True
        self.session = session
        VmAttachment.state.restore(self, AttachmentState[record.state.upper()])
        self._gate.restore(record.gate, self._keep.age_us(self._key), self._give_up)

    def _refused(self, error: RecordError, vm: object) -> bool:
        """The end of `restore` where the VM cannot be taken up: its descriptors are closed. False."""
        close_fds(descriptors_of(vm))
        self._kept.end()
        self._kept = NO_KEPT
        self._keep.refused(self._key, error)
        return False

    def _give_up(self, reason: str) -> None:
        if self.session is not None:
            self.session.cut_off(reason)

    def drop_vm(self) -> None:
        """After `restore`: the device model's record was refused. The VM is disconnected; the device starts anew."""
        if self.session is not None:
            self.session.refuse()
            self.session = None
            VmAttachment.state.restore(self, AttachmentState.WAITING)
            self._gate.negotiated()
            self._moved()

    def go_on(self) -> None:
        """All is restored: serve the VM, or the next one."""
        if self.session is None and self._nic.guest.attached:
            self._nic.report.guest_detached()
        self._dormant = False
        if self._listener is not None:
            self._listener.resume()
        if self.session is not None and self.session.serving:
            self.session.go_on()
        elif self.state is AttachmentState.WITHHELD:
            self._wait()
        elif self.state is AttachmentState.WAITING:
            self._await_vm()

    def _await_vm(self) -> None:
        """Have the next VM come. While dormant, nothing is done; `go_on` comes here."""
        if self._listener is not None and not self._dormant:
            self._listener.resume()

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
        self._kept.end()
        self._kept = NO_KEPT
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

"""vhost-user: a back-end in another process processes the guest's rings itself (QEMU's net/vhost-user.c).

The registry makes it. No packet and no notification passes through Python: the back-end gets the NIC's guest memory and
eventfds. The link follows the socket: while no back-end is connected, or the connected one cannot serve the guest, the
hold `disconnected` is set.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, NamedTuple

from vnic.backend.base import Backend, BackendContext, log
from vnic.backend.options import VhostUserOptions
from vnic.backend.vhost_user_session import (
    BackEndHandles,
    BackEndSession,
    BackEndSessionRecord,
    acked,
    lacking,
    usable_rings,
)
from vnic.chardev.socket import ChardevSocket, ChardevSocketRecord, SocketChardevState
from vnic.lifecycle import Lifecycle, Moves
from vnic.net.announce import ETH_P_RARP, RARP_FRAME_LENGTH
from vnic.net.errors import NetError
from vnic.net.queue import Frame
from vnic.nic.virtio_net.features import GUEST_ANNOUNCE
from vnic.protocol.vhost_user.frontend_record import Phase
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.record import U64, Record, RecordError, require, within
from vnic.sockets.listener import Listening, ListeningHandles
from vnic.sockets.take_up import TakeUp
from vnic.virtio.device import RingBackend, VirtioDevice

UNFIT_PAUSE_S = 0.5
"""The delay before a back-end that broke the protocol, or cannot serve the guest, may try again. If the error occurs
only after the link is up, the guest's link would otherwise flap as fast as the back-end reconnects."""

WRONG_PEER = "vhost-user requires frontend driver virtio-net-*"
"""QEMU's text for a NIC that is not a virtio device."""


class BackendState(enum.Enum):
    """The state of the netdev."""

    NEW = "new"
    ABSENT = "absent"
    """No back-end is connected."""
    HANDSHAKE = "handshake"
    """A back-end is connected, and its features have been requested."""
    UP = "up"
    """The back-end is ready for the rings, or has them."""
    LOST = "lost"
    """The back-end has disconnected; the loop's next turn processes that."""
    ENDED = "ended"
    """The netdev was deleted; the return of the rings may still be pending."""


MOVES: Final[Moves[BackendState]] = {
    BackendState.NEW: frozenset({BackendState.ABSENT, BackendState.ENDED}),
    BackendState.ABSENT: frozenset({BackendState.HANDSHAKE, BackendState.ENDED}),
    BackendState.HANDSHAKE: frozenset({BackendState.UP, BackendState.LOST, BackendState.ENDED}),
    BackendState.UP: frozenset({BackendState.LOST, BackendState.ENDED}),
    BackendState.LOST: frozenset({BackendState.ABSENT, BackendState.ENDED}),
    BackendState.ENDED: frozenset(),
}


class LossRecord(Record, frozen=True):
    """The end of a connection, which the loop's next turn processes."""

    reason: str
    connected: bool
    """The link was up."""
    pause_us: U64
    """The delay before the next connection."""


class VhostUserBackendRecord(Record, frozen=True):
    """The state of a VhostUserBackend apart from its sockets."""

    state: BackendState
    chardev: ChardevSocketRecord
    ring_features: U64 | None
    complaint: str
    """The last reason for which a back-end was refused."""
    rarp_failed: bool
    loss: LossRecord | None
    session: BackEndSessionRecord | None

    def check_fields(self) -> None:
        state = self.state
        lost = state is BackendState.LOST
        require(lost is (self.loss is not None), "loss", f"does not go with {state.value}")
        connected = state in (BackendState.HANDSHAKE, BackendState.UP)
        require(connected is (self.session is not None), "session", f"does not go with {state.value}")
        if self.session is not None:
            phase = self.session.engine.phase
            fits = (phase is Phase.HANDSHAKE) is (state is BackendState.HANDSHAKE)
            require(fits, "session.engine.phase", f"is {phase.value} in {state.value}")
        is_open = self.chardev.state is SocketChardevState.OPEN
        require(is_open is (lost or connected), "chardev.state", f"does not go with {state.value}")


class VhostUserHandles(NamedTuple):
    """The handles of a VhostUserBackend; the sockets are its own after `restore`."""

    listening: Listening | None = None
    """None, too, if the chardev owns it."""
    sock: socket.socket | None = None
    session: BackEndHandles = BackEndHandles()


class VhostUserFds(NamedTuple):
    """The descriptors of VhostUserHandles."""

    listening: ListeningHandles | None
    sock: int | None
    outbox: int | None
    output: list[list[int]]
    begun: list[int]


class VhostUserBackend(Backend, RingBackend):
    """One vhost-user netdev; a RingBackend for the virtio NIC that is plugged into it."""

    passes_frames = False
    state = Lifecycle(BackendState.NEW, MOVES, "moved")
    kept_type: ClassVar[tuple[type[Record], Any]] = (VhostUserBackendRecord, VhostUserFds)

    def __init__(self, context: BackendContext, options: VhostUserOptions) -> None:
        super().__init__(context)
        self._chardev = context.chardevs.find(options.chardev)
        self._socket = ChardevSocket(context.loop, self._chardev, self)
        self.queues = options.queues if options.queues is not None else 1
        if self.queues < 1 or self.queues > 1024:
            raise NetError("vhost-user number of queues must be in range [1, 1024]")
        self.ring_features: int | None = None
        """The features of the last connected back-end; None before the first."""
        self._session: BackEndSession | None = None
        """The session of the connected back-end, or of the last one while it has the rings."""
        self._has_nic = False
        """A NIC is the peer. It stays set when the end of this netdev removes the peer, which only the NIC is notified
        of."""
        self._rarp_failed = False
        self._complaint = ""
        self._loss: LossRecord | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._chardev.claim(f"netdev {self.name}")
        self.state = BackendState.ABSENT
        self._socket.start()

    def cleanup(self) -> None:
        """Delete the netdev. It waits for rings that the back-end still has, for at most the time of a stop."""
        began, self.state = self.state, BackendState.ENDED
        self._socket.close()
        if began is not BackendState.NEW:
            self._chardev.release()
            if self.client.created and not self._has_nic:
                # net_vhost_user_cleanup. A NIC that waits for this id can use the chardev again; QEMU keeps it
                # reserved.
                self.context.chardevs.remove(self._chardev.label)
        if self._session is not None and not self._session.has_rings:
            self._drop_session()

    # -- state apart from handles -----------------------------------------------------------------------------------

    def save(self) -> VhostUserBackendRecord:
        """The record of a netdev that is not deleted."""
        return VhostUserBackendRecord(
            state=self.state,
            chardev=self._socket.save(),
            ring_features=self.ring_features,
            complaint=self._complaint,
            rarp_failed=self._rarp_failed,
            loss=self._loss,
            session=None if self._session is None else self._session.save(),
        )

    @property
    def handles(self) -> VhostUserHandles:
        """The sockets that belong to the record, and what the back-end has."""
        listening, session = self._socket.listening, self._session
        if session is None or session.sock is None:
            return VhostUserHandles(listening)
        return VhostUserHandles(listening, session.sock, session.handles)

    @property
    def fds(self) -> VhostUserFds:
        """The descriptors that belong to the record."""
        listening, session = self._socket.listening, self._session
        handles = None if listening is None else listening.handles
        if session is None or session.sock is None:
            return VhostUserFds(handles, None, None, [], [])
        output, begun = session.handles.output, session.handles.begun
        return VhostUserFds(
            handles, session.sock.fileno(), session.outbox, [list(each) for each in output], list(begun)
        )

    def save_kept(self) -> tuple[Record, NamedTuple]:
        return self.save(), self.fds

    def take_up(self, record: Any, handles: Any) -> None:
        with TakeUp(handles) as taking:
            self.take_up_record(taking, record, handles)

    def take_up_record(self, taking: TakeUp, record: VhostUserBackendRecord, fds: VhostUserFds) -> None:
        """Raises RecordError."""
        listening = taking.listening(record.chardev.listening, fds.listening)
        sock = taking.socket(fds.sock)
        device, attachment, memory = None, None, None
        if record.session is not None and record.session.has_rings:
            device = self._peer_device()
            require(device is not None and self.guest is not None, "session", "has rings, and no VM is there")
            assert self.guest is not None
            attachment, memory = self.guest
        session = BackEndHandles(fds.output, fds.begun, device, attachment, memory)
        self.restore(record, VhostUserHandles(listening, sock, session), fds.outbox)

    def restore(
        self, record: VhostUserBackendRecord, handles: VhostUserHandles, outbox: int | None = None
    ) -> None:
        """Go on in the place of the netdev that was saved; called instead of `start`, after the VM's attachment is
        restored and before the device whose rings the back-end has. Raises RecordError, and leaves the sockets to the
        caller then."""
        passed = "no" if handles.sock is None else "a"
        agree = (record.session is not None) is (handles.sock is not None)
        require(agree, "session", f"{passed} socket was passed")
        with within("chardev"):
            self._socket.check(record.chardev, handles.listening)
        if record.session is not None and handles.sock is not None:
            # Of a copy of the socket, so that the caller's stays open if the session refuses.
            sock = handles.sock.dup()
            session = self._new_session(sock, outbox)
            try:
                with within("session"):
                    session.restore(record.session, handles.session)
            except RecordError:
                session.close()
                raise
            handles.sock.close()
            self._session = session
            self._chardev.set_connected(sock)
        self._chardev.claim(f"netdev {self.name}")
        VhostUserBackend.state.restore(self, record.state)
        self.ring_features, self._complaint = record.ring_features, record.complaint
        self._rarp_failed, self._loss = record.rarp_failed, record.loss
        self._socket.restore(record.chardev, handles.listening, age_us=self.age_us)
        if record.loss is not None:
            self.loop.call_soon(self._closed)

    # -- the socket (ChardevUser, SessionOwner) ---------------------------------------------------------------------

    def awaiting(self, text: str) -> None:
        self.hold_disconnected(text)

    def opened(self, sock: socket.socket) -> None:
        """CHR_EVENT_OPENED: vhost_user_start."""
        self.state = BackendState.HANDSHAKE
        self._chardev.set_connected(sock)
        self.hold_disconnected(f"connected to {self._socket.name}, asking the back-end what it can")
        try:
            self._session = self._new_session(sock)
        except OSError as error:
            sock.close()
            self._loss = LossRecord(
                reason=f"there are no descriptors left: {error.strerror}",
                connected=False,
                pause_us=round(UNFIT_PAUSE_S * 1e6),
            )
            self.state = BackendState.LOST
            self.loop.call_soon(self._closed)
            return
        self._session.begin()

    def _new_session(self, sock: socket.socket, outbox: int | None = None) -> BackEndSession:
        kept = self.kept if self.context.keep.active else None
        return BackEndSession(self, self.loop, sock, self.name, self.queues, kept, outbox)

    def lost(self, reason: str | None) -> None:
        """CHR_EVENT_CLOSED: stop watching the socket. The rest is done in the loop's next turn, because this may be
        called within a read or write."""
        self._disconnect(f"the back-end closed the connection{f': {reason}' if reason else ''}", 0.0)

    def refuse(self, reason: str) -> None:
        """The back-end cannot be used."""
        self._disconnect(reason, UNFIT_PAUSE_S)

    def _disconnect(self, reason: str, pause_s: float) -> None:
        """Disconnect the back-end (qemu_chr_fe_disconnect), and process that in the next turn."""
        if self.state in (BackendState.HANDSHAKE, BackendState.UP):
            connected = self.state is BackendState.UP
            if connected or reason != self._complaint:
                log.warning("netdev %s: %s", self.name, reason)
            self._complaint = reason
            self.state = BackendState.LOST
            if self._session is not None:
                self._session.close()
            self._loss = LossRecord(reason=reason, connected=connected, pause_us=round(pause_s * 1e6))
            self.loop.call_soon(self._closed)
        elif self.state is BackendState.ENDED:
            self._drop_session()

    def _closed(self) -> None:
        """chr_closed_bh: link down for all queues, notify the device, install the handlers again, emit the event.

        QEMU saves the features here that the guest acknowledged; in vnic the device model has them.
        """
        loss, self._loss = self._loss, None
        if self.state is not BackendState.LOST or loss is None:
            self._drop_session()  # the netdev was deleted in between
            return
        self.state = BackendState.ABSENT
        self._chardev.set_connected(None)
        self.hold_disconnected(loss.reason)
        self._drop_session()
        self._socket.rearm(loss.reason, loss.pause_us / 1e6)
        if loss.connected:
            self.context.emit("NETDEV_VHOST_USER_DISCONNECTED", {"netdev-id": self.name})

    def _drop_session(self) -> None:
        """The session returns rings that the NIC has not requested yet when the NIC requests them."""
        session = self._session
        if session is not None:
            session.close()
            session.return_rings()
            if not session.has_rings:
                self._session = None

    # -- handshake --------------------------------------------------------------------------------------------------

    def ready(self, features: int) -> None:
        """Refuse a back-end that lacks features the guest uses, or set the link up."""
        if not self._peer_fits():
            raise ProtocolError(WRONG_PEER)
        self.ring_features = features  # set if refused, too: a restarted guest will match
        device = self._peer_device()
        missing = acked(device) & ~features
        if missing:
            raise ProtocolError(lacking(missing))
        if device is not None:
            try:
                usable_rings(device, self.queues)
            except ValueError as error:
                raise ProtocolError(str(error)) from None
        self.state = BackendState.UP
        if self.context.keep.active:
            self.loop.call_soon(
                self._tell_up
            )  # the message that led here is saved with all its effects first
        else:
            self._tell_up()

    def far_end_text(self) -> str | None:
        return f"back-end connected: {self._socket.name}" if self.state is BackendState.UP else None

    def _tell_up(self) -> None:
        text = self.far_end_text()
        if text is None:
            return
        self.release_disconnected(text)
        data: dict[str, object] = {"netdev-id": self.name, "chardev-id": self._chardev.label}
        self.context.emit("NETDEV_VHOST_USER_CONNECTED", data)

    def _peer_device(self) -> VirtioDevice | None:
        endpoint = self.client.peer.endpoint if self.client.peer is not None else None
        return endpoint if isinstance(endpoint, VirtioDevice) else None

    def _peer_fits(self) -> bool:
        """Whether the NIC, if there is one, has rings to hand over."""
        return self.client.peer is None or self._peer_device() is not None

    def peer_changed(self) -> None:
        self._has_nic = self.client.peer is not None
        if self.state is BackendState.UP and not self._peer_fits():
            self.loop.call_soon(self.refuse, WRONG_PEER)

    # -- RingBackend --------------------------------------------------------------------------------------------------

    def take_rings(self, device: VirtioDevice) -> bool:
        if self.state is not BackendState.UP or self._session is None:
            return False
        return self._session.take_rings(device)

    def rings_changed(self, device: VirtioDevice) -> None:
        if self._session is not None:
            self._session.rings_changed(device)

    def give_back(self, device: VirtioDevice, done: Callable[[Sequence[int | None]], None]) -> None:
        if self._session is not None:
            self._session.give_back(done)
        else:
            done([])

    def rings_returned(self) -> None:
        if self.state is BackendState.ENDED:
            self.loop.call_soon(self._drop_session)  # not within the session's own feed

    # -- Endpoint ---------------------------------------------------------------------------------------------------

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        """Only announcements are sent this way, and the back-end makes them itself (vhost_user_receive)."""
        session = self._session
        is_rarp = len(frame) == RARP_FRAME_LENGTH and int.from_bytes(frame[12:14], "big") == ETH_P_RARP
        if not is_rarp or session is None or self.state is not BackendState.UP:
            return True
        device = session.announces()
        if device is None or device.driver_features & GUEST_ANNOUNCE:
            return True  # no guest, or it announces itself
        if session.send_rarp(bytes(frame[6:12])):
            return True
        if not self._rarp_failed:
            self._rarp_failed = True
            log.error("netdev %s: Vhost user backend fails to broadcast fake RARP", self.name)
        return True

    def wire_end(self) -> str:
        return "the vhost-user back-end has not taken the rings"

    def info_text(self, queue: int) -> str:
        return f"vhost-user{queue} to {self._chardev.label}"

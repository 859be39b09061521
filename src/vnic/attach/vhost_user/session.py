"""One vhost-user client at a NIC: UML, QEMU, DPDK's virtio-user.

`VhostUserAttachment` makes one for each client. It is the shell of the client's `BackendEngine`, and the Attachment of
the virtio device. How a client learns of the link depends on what it negotiated:

- with CONFIG it reads the status after a CONFIG_CHANGE, and its socket is never closed for a link change (UML
  would lose the device for good);
- without (QEMU -netdev vhost-user, DPDK virtio-user) the socket is the cable: closed while the link is down.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from vnic.attach.session import Session, SessionHost
from vnic.attach.vhost_user.kicks import Kicks
from vnic.attach.vhost_user.request_channel import RequestChannel, RequestChannelRecord
from vnic.keep import NO_KEPT, Kept
from vnic.net.announce import rarp_frame
from vnic.net.client import Nic
from vnic.net.records import ShownBy
from vnic.protocol.vhost_user.backend import BackendEngine
from vnic.protocol.vhost_user.backend_record import BackendEngineRecord, BackendHandles
from vnic.protocol.vhost_user.messages import MAX_FDS, P_CONFIG, P_STATUS, ProtocolError
from vnic.protocol.vhost_user.ring import Ring, RingState
from vnic.record import U8, U64, Record, left_us, require, within
from vnic.sockets import unblock
from vnic.sockets.connection import ConnectionRecord
from vnic.virtio.attachment import Doorbell, QueueFds
from vnic.virtio.device import VirtioDevice
from vnic.virtio.queue_state import QueueState

log = logging.getLogger(__name__)

GRACE_S: Final = 0.1
"""How long a new client that learns of the link by its socket stays connected although the link is down: QEMU boots no
VM before its back-end has completed the set-up once."""


class VhostUserSessionRecord(Record, frozen=True):
    """The state of a VhostUserSession that serves its client."""

    shown_by: ShownBy | None
    grace_us: U64 | None
    """The time for which the socket stays open although the link is down."""
    engine: BackendEngineRecord
    connection: ConnectionRecord
    requests: RequestChannelRecord
    handed_over: list[U8] = msgspec.field(default_factory=list)
    """The rings whose kicks a back-end waits for."""

    def check_fields(self) -> None:
        possible = self.engine.request_channel or not self.requests.unsent
        require(possible, "requests.unsent", "is there without a channel")


class VhostUserSessionHandles(NamedTuple):
    """The descriptors of a session beside its socket and outbox."""

    engine: BackendHandles
    output: Sequence[Sequence[int]]
    """As `Connection.fds`."""


class VhostUserSession(Session):
    """From the connection of a client until its rings are back and its descriptors closed."""

    LEFT_TEXT = "vhost-user client left"
    CUT_OFF_TEXT = "vhost-user connection closed"
    CUT_SHORT_TEXT = "in the middle of a message"

    def __init__(
        self,
        host: SessionHost,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        device: VirtioDevice,
        nic: Nic,
        kept: Kept = NO_KEPT,
        outbox: int | None = None,
    ) -> None:
        """`kept` and `outbox` as for Session."""
        super().__init__(host, loop, sock, nic, max_fds=MAX_FDS, kept=kept, outbox=outbox)
        self._device = device
        self._handed_over: set[int] = set()
        """The rings whose kicks a back-end waits for."""
        self._kicks = Kicks(loop, nic.name, device.queues, device.kick, self._fail_later)
        self._requests = RequestChannel(loop, nic.name, kept.changed)
        self._grace: asyncio.TimerHandle | None = None
        """Runs while the link is down and the socket is still open."""
        self._unsent: RequestChannelRecord | None = None
        """The saved state of the request channel, until the engine has that."""
        self._unwatched: dict[int, int | None] | None = None
        """The kicks to watch, between `restore` and `go_on`."""
        self._had = 0
        """The descriptors of the engine after the last message."""
        self.engine = BackendEngine(device, self.memory, self, queue_pairs=nic.queues)

    def begin(self) -> None:
        """Serve the device to the client; `restore` takes the place of this after a restart."""
        self._device.attach(self, self.memory)

    # --- State apart from handles -----------------------------------------------------------------------------

    def save(self) -> VhostUserSessionRecord:
        """The record of a session that is `serving`."""
        grace = self._grace
        return VhostUserSessionRecord(
            shown_by=self.shown_by,
            grace_us=None if grace is None else left_us(grace.when(), self._loop.time()),
            engine=self.engine.save(),
            connection=self._connection.save(),
            requests=self._requests.save(),
            handed_over=sorted(self._handed_over),
        )

    @property
    def handles(self) -> VhostUserSessionHandles:
        """The descriptors that belong to the record, still the session's."""
        return VhostUserSessionHandles(self.engine.handles, self._connection.fds)

    def restore(self, record: VhostUserSessionRecord, handles: VhostUserSessionHandles) -> None:
        """Take the place of the session that was saved, on the same connection. The device is restored after it, with
        this session and its memory as handles; then `go_on` follows. Raises RecordError, and leaves the descriptors to
        the caller then."""
        with within("connection"):
            record.connection.check(handles.output)
        rings = len(self.engine.rings)
        for at, index in enumerate(record.handed_over):
            require(index < rings, f"handed_over[{at}]", f"is {index}, of {rings} rings")
        self._unsent, self._unwatched = record.requests, {}
        try:
            with within("engine"):
                self.engine.restore(record.engine, handles.engine)
        finally:
            self._unsent = None
        self._handed_over = set(record.handed_over)
        self._connection.restore(record.connection, handles.output)
        self.shown_by = record.shown_by
        if record.grace_us is not None:
            self._grace = self._loop.call_later(record.grace_us / 1e6, self._show_link_down)
        self._count_descriptors()

    def go_on(self) -> None:
        """Carry out the messages that waited when the session was saved."""
        watched, self._unwatched = self._unwatched or {}, None
        for index, fd in watched.items():
            self.watch_kick(index, fd)
        super().go_on()
        try:
            replies = self.engine.go_on()
        except ProtocolError as error:
            self.failed(error)
            return
        self._connection.send(replies)
        if self.engine.busy:
            self._connection.pause()
        else:
            self._connection.resume()
        if self.by_socket and not self._nic.link_up and self._grace is None:
            self._loop.call_soon(self._show_link_down)

    def refuse(self) -> None:
        self._stop_grace()
        self._unwatched = {}
        self.engine.close()
        self.engine.release()
        super().refuse()

    @property
    def by_socket(self) -> bool:
        """The client learns of the link by the socket and not by the config space."""
        return self.shown_by is ShownBy.SOCKET

    @property
    def descriptors(self) -> int:
        return self.engine.descriptors + self.memory.descriptors

    # --- The end ----------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        return self.engine.pending

    def lost(self, reason: str | None) -> None:
        self.shown_by = None  # the next client may be of another kind
        super().lost(reason)

    def cut_off(self, reason: str) -> None:
        self.shown_by = None
        super().cut_off(reason)

    def close(self) -> None:
        self.leave()

    def _unplug(self) -> None:
        self._stop_grace()
        self.engine.close()
        self._device.detach(self._detached)

    def _detached(self) -> None:
        self.engine.release()
        self._handed_over.clear()
        self._released()

    # --- Messages (ConnectionUser, DeviceShell) ---------------------------------------------------------------

    @property
    def wanted(self) -> int:
        return self.engine.wanted

    def received(self, data: bytes, fds: list[int]) -> None:
        try:
            replies = self.engine.feed(data, fds)
        except ProtocolError as error:
            self.failed(error)
            return
        if self.engine.busy:
            self._connection.pause()
        self._tell_descriptors()
        self._connection.send(replies)

    def _tell_descriptors(self) -> None:
        """The keep is told of those that were closed; of those that arrive, the connection tells it."""
        if self._kept is NO_KEPT:
            return
        had, self._had = self._had, self.descriptors
        if had != self._had:
            self._kept.handles_changed()

    def resume(self, replies: bytes) -> None:
        self._kept.changed()
        self._tell_descriptors()
        self._connection.send(replies)
        self._connection.resume()

    def failed(self, error: ProtocolError) -> None:
        self._connection.send(error.replies)
        self.cut_off(str(error))

    def negotiated(self) -> None:
        self._host.negotiated()
        self.shown_by = ShownBy.DEVICE if self.engine.has(P_CONFIG) else ShownBy.SOCKET
        self._nic.report.guest_shown_by(self.shown_by)
        if self.by_socket and not self._nic.link_up and self._grace is None:
            self._grace = self._loop.call_later(GRACE_S, self._show_link_down)

    def announce(self, mac: bytes) -> None:
        self._nic.send(0, rarp_frame(mac))

    # --- The link ---------------------------------------------------------------------------------------------

    def link_changed(self, up: bool) -> None:
        """Attachment: a client without CONFIG learns of the link by its socket; others get CONFIG_CHANGE, including one
        whose driver starts later."""
        self._kept.changed()
        if self.shown_by is not ShownBy.SOCKET:
            self.engine.notices.changed()
        elif not up:
            self._show_link_down()

    def _show_link_down(self) -> None:
        self._grace = None
        if self.serving and self.by_socket and not self._nic.link_up:
            log.info("%s: vhost-user connection closed, to show that the link is down", self._name)
            self.leave()

    def _stop_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def config_interrupt(self) -> bool:
        """Attachment: send CONFIG_CHANGE within this call if the client can receive it."""
        if not self.serving:
            return False
        self._kept.changed()
        self.engine.notices.changed()
        self._send_pending()
        return self.engine.notices.notified

    def _send_pending(self) -> bool:
        """Send pending messages on the request channel; True if a new CONFIG_CHANGE was sent."""
        if self._requests.full:
            return False
        notice = self.engine.take_notice()
        if notice is None:
            return False
        self._requests.send(notice)
        return True

    def requests_changed(self) -> None:
        self._requests.use(self.engine.request_fd)
        if self._unsent is not None:
            self._requests.restore(self._unsent)
        self._send_pending()

    # --- Rings ------------------------------------------------------------------------------------------------

    def rings_changed(self) -> None:
        if not self.serving:
            return
        if self.by_socket and self._grace is not None and self.engine.running:
            self._grace.cancel()
            self._loop.call_soon(self._show_link_down)
        elif self._send_pending():
            self._nic.report.interrupted()

    def watch_kick(self, index: int, fd: int | None) -> None:
        if self._unwatched is not None:
            self._unwatched[index] = fd
            return
        self._kicks.watch(index, None if index in self._handed_over else fd)

    def queue_interrupt(self, index: int) -> None:
        """Attachment: signal the ring's call descriptor."""
        if self.serving:
            self._signal(self.engine.rings[index], "call_fd")

    def needs_reset(self) -> None:
        """Attachment: notify the client through STATUS, if it supports that, and through the broken ring's error
        descriptor."""
        if not self.serving:
            return
        for ring in self.engine.rings:
            if self._device.queues[ring.index].state is QueueState.BROKEN:
                self._signal(ring, "err_fd")
        if self.engine.has(P_STATUS):
            self.config_interrupt()

    def _signal(self, ring: Ring, name: str) -> None:
        fd: int | None = getattr(ring, name)
        if fd is None:
            return
        try:
            unblock.write(fd, unblock.SIGNAL)
        except BlockingIOError:
            pass  # full: a signal is pending already
        except unblock.Blocked as error:
            ring.replace_fd(name, None)
            self._kept.handles_changed()
            self._fail_later(
                f"the {name.removesuffix('_fd')} descriptor of ring {ring.index}: {error.strerror}"
            )
        except OSError as error:
            log.debug("%s: cannot signal ring %d: %s", self._name, ring.index, error)

    def _fail_later(self, text: str) -> None:
        """Disconnect the client, but in a later turn: not within a call of the device."""

        def fail() -> None:
            if self.serving:
                self.cut_off(text)

        self._loop.call_soon(fail)

    def doorbell(self) -> Doorbell | None:
        return None

    def hand_over_queue(self, index: int) -> QueueFds | None:
        """Attachment: the descriptors of the ring; its kicks are no longer read here."""
        if not self.serving:
            return None
        ring = self.engine.rings[index]
        self._handed_over.add(index)
        self.watch_kick(index, None)
        return QueueFds(ring.kick_fd, ring.call_fd)

    def reclaim_queue(self, index: int) -> None:
        """Attachment: read the ring's kicks again."""
        self._handed_over.discard(index)
        if self.serving and self.engine.rings[index].state is RingState.STARTED:
            self.watch_kick(index, self.engine.rings[index].kick_fd)

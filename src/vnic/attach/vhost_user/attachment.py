"""Serves a NIC's virtio device to a VM over a vhost-user socket: UML, QEMU, DPDK's virtio-user.

The machine makes one per NIC with `attach.type=vhost-user`; it is the device's `Attachment`, and the thin shell
around `protocol.vhost_user.device.DeviceEngine`. How a client learns of the link depends on what it negotiated:

- with CONFIG it reads the status after a CONFIG_CHANGE, and its socket is never closed for a link change (UML
  would lose the device for good);
- without (QEMU -netdev vhost-user, DPDK virtio-user) the socket is the cable: closed while the link is down.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from vnic.attach.gate import Gate
from vnic.attach.unsealed import tell_of_unsealed
from vnic.attach.vhost_user.kicks import Kicks
from vnic.attach.vhost_user.request_channel import RequestChannel
from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.net.announce import rarp_frame
from vnic.net.client import Nic
from vnic.net.errors import NetError
from vnic.net.records import LinkChanged, LinkSeen, ShownBy
from vnic.protocol.vhost_user.backend import DeviceEngine
from vnic.protocol.vhost_user.messages import (
    MAX_FDS,
    P_CONFIG,
    P_STATUS,
    ProtocolError,
)
from vnic.protocol.vhost_user.ring import Ring, RingState
from vnic.quota import QUOTA
from vnic.sockets import unblock
from vnic.sockets.connection import Connection
from vnic.sockets.listener import Listener, listen_at
from vnic.sockets.peer import peer_name
from vnic.sockets.resolve import check_path
from vnic.virtio.device import QueueFds, VirtioDevice
from vnic.virtio.queue import QueueState

log = logging.getLogger(__name__)

GRACE_S: Final = 0.1
"""How long a new client that shows the link by its socket is kept although the link is down: QEMU boots no VM
before its back-end has answered the whole set-up once."""

RETRY_S: Final = 0.1
"""Between two attempts to connect, or to listen again where the path was taken meanwhile."""


class VhostUserState(enum.Enum):
    """Where the attachment is."""

    CLOSED = enum.auto()
    WAITING = enum.auto()
    """Listening, or trying to connect."""
    CONNECTED = enum.auto()
    LEAVING = enum.auto()
    """The client is gone, a back-end still has its rings; the next client has to wait."""
    CLOSING = enum.auto()
    """The same, with no next client."""
    WITHHELD = enum.auto()
    """No socket, because that is how the client is shown that the link is down."""


class VhostUserAttachment:
    """One NIC's vhost-user socket, for one client at a time."""

    def __init__(
        self,
        device: VirtioDevice,
        nic: Nic,
        path: str,
        server: bool,
        loop: asyncio.AbstractEventLoop,
        *,
        mode: int = 0o600,
    ) -> None:
        """`server`: listen at `path` (with permissions `mode`); otherwise connect there, again and again.

        Raises NetError for a path that no socket can have; nothing is opened before `start`.
        """
        check_path(path)
        self._device = device
        self._nic = nic
        self._loop = loop
        self._mode = mode
        self.path = path
        self.server = server
        self.state = VhostUserState.CLOSED
        self._by_socket = False
        """The present client, or the last one that we left, follows the socket and not the config space."""
        self._listener: Listener | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None
        self._engine: DeviceEngine | None = None
        self._memory = GuestMemory()
        self._kicks = Kicks(loop, nic.name, device.queues, device.kick, self._fail_later)
        self._lent: set[int] = set()
        self._requests = RequestChannel(loop, nic.name)
        self._when_closed: list[Callable[[], None]] = []
        self._unsubscribe: Callable[[], None] | None = None
        self._gate = Gate(nic.name, loop)
        self._complaint = ""

    # --- Life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen (NetError if the path cannot be had) or begin to connect."""
        if self.state is not VhostUserState.CLOSED:
            return
        if self.server:
            self._listener = self._listen()
            self.state = VhostUserState.WAITING
        else:
            self.state = VhostUserState.WAITING
            self._connect()
        self._unsubscribe = self._nic.watch(self._link_came)

    def close(self, done: Callable[[], None] | None = None) -> None:
        """Leave the client, close everything and remove the path. May be called in any state; `done` is called,
        now or later, when nothing touches the client's memory any more."""
        if done is not None:
            self._when_closed.append(done)
        self._cancel_timers()
        self._close_listener()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self.state is VhostUserState.CONNECTED:
            self._leave(VhostUserState.CLOSING)
        elif self.state in (VhostUserState.LEAVING, VhostUserState.CLOSING):
            self.state = VhostUserState.CLOSING
        else:
            self._closed()

    def _closed(self) -> None:
        self.state = VhostUserState.CLOSED
        callbacks, self._when_closed = self._when_closed, []
        for callback in callbacks:
            callback()

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _cancel_timers(self) -> None:
        for timer in (self._retry, self._grace):
            if timer is not None:
                timer.cancel()
        self._retry = self._grace = None

    def _wait(self) -> None:
        """Be there for the next client, or stay away while that is how the link is shown."""
        if self._by_socket and not self._nic.link_up:
            self.state = VhostUserState.WITHHELD
            self._close_listener()
            return
        self.state = VhostUserState.WAITING
        if not self.server:
            self._connect()
        elif self._listener is not None:
            self._listener.resume()
        else:
            self._listen_again()

    def _listen(self) -> Listener:
        listening = listen_at(self.path, self._mode)
        return Listener(self._loop, listening, self._accepted, self.path, gate=self._gate)

    def _listen_again(self) -> None:
        self._retry = None
        try:
            self._listener = self._listen()
        except NetError as error:
            self._complain(f"cannot listen again: {error}")
            self._retry = self._loop.call_later(RETRY_S, self._listen_again)

    def _connect(self) -> None:
        """One attempt; a UNIX socket's connect() is over at once."""
        self._retry = None
        delay = self._gate.delay()
        if delay:
            self._retry = self._loop.call_later(delay, self._connect)
            return
        try:
            sock = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
        except OSError as error:  # no descriptors
            self._complain(f"cannot connect to {self.path}: {error.strerror}")
            self._retry = self._loop.call_later(RETRY_S, self._connect)
            return
        refused = sock.connect_ex(self.path)
        if refused:
            sock.close()
            if refused not in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN):
                self._complain(f"cannot connect to {self.path}: {os.strerror(refused)}")
            self._retry = self._loop.call_later(RETRY_S, self._connect)
        else:
            self._accepted(sock)

    def _complain(self, text: str) -> None:
        """Log what keeps a retry from succeeding, once."""
        if text != self._complaint:
            self._complaint = text
            log.error("%s: %s; trying on", self._nic.name, text)

    # --- The client comes and goes --------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket) -> None:
        connection = self._connection
        if connection is not None and connection.is_abandoned():
            # Killed, behind messages that are not carried out yet. Nobody is left who could want them.
            connection.close()
            self.lost(None)
        if self.state is not VhostUserState.WAITING:
            log.warning("%s: refused a second vhost-user client, %s", self._nic.name, peer_name(sock))
            sock.close()
            return
        log.info("%s: vhost-user client connected, %s", self._nic.name, peer_name(sock))
        self._complaint = ""
        self.state = VhostUserState.CONNECTED
        self._by_socket = False
        self._memory = GuestMemory()
        tell_of_unsealed(self._memory, self._nic.name)
        self._device.attach(self, self._memory)
        self._engine = DeviceEngine(self._device, self._memory, self, queue_pairs=self._nic.queues)
        engine, memory, name = self._engine, self._memory, self._nic.name
        held = QUOTA.join(name, lambda: engine.descriptors + memory.descriptors)
        self._connection = Connection(self._loop, sock, self, max_fds=MAX_FDS, owner=name, holding=held)
        if self.server:
            self._gate.began(lambda text: self.failed(ProtocolError(text)))
        self._nic.report.guest_attached()

    def _leave(self, then: VhostUserState, *, violated: bool = False) -> None:
        """Part from the client; `then` LEAVING to serve the next one, or CLOSING."""
        self._gate.ended(violated=violated)
        connection, engine, memory = self._connection, self._engine, self._memory
        assert connection is not None
        assert engine is not None
        self.state = then
        self._connection = self._engine = None
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self._by_socket and not self._nic.link_up:
            self._close_listener()  # at once: QEMU would wait for an answer to a connection that is not accepted
        elif self._listener is not None:
            self._listener.pause()  # the next one is served, not refused, once the device is free
        connection.close()
        engine.close()

        def detached() -> None:
            engine.release()
            memory.close()
            connection.released()
            self._lent.clear()
            if self.state is VhostUserState.LEAVING:
                self._wait()
            else:
                self._closed()

        self._device.detach(detached)
        self._nic.report.guest_detached(ShownBy.SOCKET if self._by_socket else None)

    def lost(self, reason: str | None) -> None:
        """ConnectionUser: the client closed its end, or it sent what is refused, or the socket failed (`reason`)."""
        violated = reason is not None
        if self._engine is not None and self._engine.pending and reason is None:
            reason = "in the middle of a message"
        level = logging.WARNING if violated else logging.INFO
        log.log(level, "%s: vhost-user client left%s", self._nic.name, f": {reason}" if reason else "")
        self._by_socket = False  # who comes next may be another kind of client
        self._leave(VhostUserState.LEAVING, violated=violated)

    # --- Messages (ConnectionUser, DeviceShell) ---------------------------------------------------------------

    @property
    def wanted(self) -> int:
        assert self._engine is not None
        return self._engine.wanted

    def received(self, data: bytes, fds: list[int]) -> None:
        engine, connection = self._engine, self._connection
        assert engine is not None
        assert connection is not None
        try:
            replies = engine.feed(data, fds)
        except ProtocolError as error:
            self.failed(error)
            return
        if engine.busy:
            connection.pause()
        connection.send(replies)

    def resume(self, replies: bytes) -> None:
        if self._connection is not None:
            self._connection.send(replies)
            self._connection.resume()

    def failed(self, error: ProtocolError) -> None:
        log.warning("%s: vhost-user connection closed: %s", self._nic.name, error)
        self._by_socket = False
        self._leave(VhostUserState.LEAVING, violated=True)

    def check_memory(self) -> None:
        """Cut the client off if it took memory away that it shares."""
        if self._engine is not None:
            try:
                self._memory.check()
            except GuestMemoryError as error:
                self.failed(ProtocolError(str(error)))

    def guest_memory(self) -> GuestMemory | None:
        """The memory of the VM that is there, or whose rings a back-end still has."""
        return self._memory

    def negotiated(self) -> None:
        self._gate.negotiated()
        self._by_socket = not self._engine_has(P_CONFIG)
        self._nic.report.guest_shown_by(ShownBy.SOCKET if self._by_socket else ShownBy.DEVICE)
        if self._by_socket and not self._nic.link_up and self._grace is None:
            self._grace = self._loop.call_later(GRACE_S, self._show_link_down)

    def _engine_has(self, protocol_feature: int) -> bool:
        return self._engine is not None and self._engine.has(protocol_feature)

    def announce(self, mac: bytes) -> None:
        self._nic.send(0, rarp_frame(mac))

    # --- The link -------------------------------------------------------------------------------------------

    def link_changed(self, up: bool) -> None:
        """Attachment: a client without CONFIG is shown the link by its socket; others are told by CONFIG_CHANGE,
        also one whose driver starts only later."""
        if self._engine is not None and not self._by_socket:
            self._engine.notices.changed()
        elif not up:
            self._show_link_down()

    def _link_came(self, event: LinkChanged | LinkSeen) -> None:
        """While the link is withheld no client is attached, and the device has nobody to tell."""
        if isinstance(event, LinkChanged) and self.state is VhostUserState.WITHHELD and self._nic.link_up:
            self._wait()

    def _show_link_down(self) -> None:
        self._grace = None
        if self.state is VhostUserState.CONNECTED and self._by_socket and not self._nic.link_up:
            log.info("%s: vhost-user connection closed, to show that the link is down", self._nic.name)
            self._leave(VhostUserState.LEAVING)

    def config_interrupt(self) -> bool:
        """Attachment: send CONFIG_CHANGE from within this call where the client can be told."""
        engine = self._engine
        if engine is None:
            return False
        engine.notices.changed()
        self._tell()
        return engine.notices.told

    def _tell(self) -> bool:
        """Send what there is to send on the request channel; True if a new CONFIG_CHANGE is out."""
        if self._requests.full or self._engine is None:
            return False
        notice = self._engine.take_notice()
        if notice is None:
            return False
        self._requests.send(notice)
        return True

    def requests_changed(self) -> None:
        self._requests.use(self._engine.request_fd if self._engine is not None else None)
        self._tell()

    # --- Rings ------------------------------------------------------------------------------------------------

    def rings_changed(self) -> None:
        if self._by_socket and self._grace is not None and self._engine is not None and self._engine.running:
            self._grace.cancel()
            self._loop.call_soon(self._show_link_down)
        elif self._tell():
            self._nic.report.interrupted()

    def watch_kick(self, index: int, fd: int | None) -> None:
        try:
            self._kicks.watch(index, None if index in self._lent else fd)
        except OSError as error:
            raise ProtocolError(
                f"the kick descriptor of ring {index} cannot be waited for: {error}"
            ) from None

    def queue_interrupt(self, index: int) -> None:
        """Attachment: signal the ring's call descriptor."""
        if self._engine is not None:
            self._signal(self._engine.rings[index], "call_fd")

    def needs_reset(self) -> None:
        """Attachment: through STATUS where the client speaks it, and through the broken ring's error descriptor."""
        engine = self._engine
        if engine is None:
            return
        for ring in engine.rings:
            if self._device.queues[ring.index].state is QueueState.BROKEN:
                self._signal(ring, "err_fd")
        if engine.has(P_STATUS):
            self.config_interrupt()

    def _signal(self, ring: Ring, name: str) -> None:
        fd: int | None = getattr(ring, name)
        if fd is None:
            return
        try:
            unblock.write(fd, unblock.SIGNAL)
        except BlockingIOError:
            pass  # full of signals already
        except unblock.Blocked as error:
            ring.replace_fd(name, None)
            self._fail_later(
                f"the {name.removesuffix('_fd')} descriptor of ring {ring.index}: {error.strerror}"
            )
        except OSError as error:
            log.debug("%s: cannot signal ring %d: %s", self._nic.name, ring.index, error)

    def _fail_later(self, text: str) -> None:
        """Cut the client off, but not from within a call of the device."""
        engine = self._engine

        def fail() -> None:
            if self._engine is engine:
                self.failed(ProtocolError(text))

        self._loop.call_soon(fail)

    def lend_queue(self, index: int) -> QueueFds | None:
        """Attachment: the ring's own descriptors; its kicks are no longer read here."""
        if self._engine is None:
            return None
        ring = self._engine.rings[index]
        self._lent.add(index)
        self.watch_kick(index, None)
        return QueueFds(ring.kick_fd, ring.call_fd)

    def reclaim_queue(self, index: int) -> None:
        """Attachment: read the ring's kicks again."""
        self._lent.discard(index)
        if self._engine is not None and self._engine.rings[index].state is RingState.STARTED:
            try:
                self.watch_kick(index, self._engine.rings[index].kick_fd)
            except ProtocolError as error:
                self._fail_later(str(error))

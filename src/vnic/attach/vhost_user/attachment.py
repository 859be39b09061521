"""Serves a NIC's virtio device to VMs over a vhost-user socket, one after the other.

The machine makes one per NIC with `attach.type=vhost-user`. It listens or connects, and makes a `VhostUserSession` for
each client. For a client that learns of the link by the socket, the socket is closed while the link is down.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from vnic.attach.attachment import AttachmentRecord, AttachmentState, VmAttachment
from vnic.attach.vhost_user.session import (
    VhostUserSession,
    VhostUserSessionHandles,
    VhostUserSessionRecord,
)
from vnic.descriptors import close_fds
from vnic.keep import NO_KEEP, Keep, descriptors_of
from vnic.net.client import Nic
from vnic.net.errors import NetError
from vnic.net.records import LinkChanged, LinkSeen
from vnic.record import Record, RecordError, require, within
from vnic.sockets.listener import ListeningHandles, listen_at
from vnic.sockets.outbox import duplicates
from vnic.sockets.resolve import check_path
from vnic.virtio.attachment import VirtioHandles
from vnic.virtio.device import VirtioDevice
from vnic.virtio.features import EVENT_IDX
from vnic.virtio.fence import FENCED

log = logging.getLogger(__name__)

RETRY_S: Final = 0.1
"""The delay between two attempts to connect, or to listen again on a path that was in use."""


class VhostUserAttachmentRecord(Record, frozen=True):
    """The state of a VhostUserAttachment with its client."""

    attachment: AttachmentRecord
    shows_link: bool
    session: VhostUserSessionRecord | None

    def check_fields(self) -> None:
        attached = self.attachment.state == "attached"
        require(attached is (self.session is not None), "session", "does not go with the state")
        possible = self.shows_link or self.attachment.state != "withheld"
        require(possible, "shows_link", "is false, and the socket is withheld")


class ClientHandles(NamedTuple):
    """The descriptors of a client."""

    sock: int
    outbox: int
    session: VhostUserSessionHandles


class VhostUserAttachmentHandles(NamedTuple):
    """The descriptors of a VhostUserAttachment."""

    listening: ListeningHandles | None
    client: ClientHandles | None


class VhostUserAttachment(VmAttachment[VhostUserSession]):
    """The vhost-user socket of one NIC, for one client at a time."""

    COME_TEXT = "vhost-user client connected, {}"
    REFUSED_TEXT = "refused a second vhost-user client, {}"

    def __init__(
        self,
        device: VirtioDevice,
        nic: Nic,
        path: str,
        server: bool,
        loop: asyncio.AbstractEventLoop,
        *,
        mode: int = 0o600,
        keep: Keep = NO_KEEP,
    ) -> None:
        """`server`: listen at `path` (with permissions `mode`); otherwise connect there repeatedly.

        Raises NetError for a path that no socket can have; nothing is opened before `start`.
        """
        check_path(path)
        super().__init__(loop, nic, path, keep)
        self._device = device
        if FENCED:
            device.transport_features = EVENT_IDX
        self._mode = mode
        self.server = server
        self._shows_link = False
        """The last client, which we disconnected, learns of the link by the socket and not by the config space."""
        self._retry: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._complaint = ""

    # --- The wait for a client --------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen (NetError if the path cannot be used) or start to connect."""
        if self.state is not AttachmentState.CLOSED:
            return
        if self._listener is not None:
            self._listener.resume()  # the VM of the process before was refused, and not its socket
        elif self.server:
            self._listen()
        self._begin_keeping()
        self.state = AttachmentState.WAITING
        if not self.server:
            self._connect()
        self._unsubscribe = self._nic.watch(self._link_came)

    def _stop_waiting(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        super()._stop_waiting()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    @property
    def _withholds(self) -> bool:
        """The closed socket shows the last client that the link is down."""
        return self._shows_link and not self._nic.link_up

    def _wait(self) -> None:
        """Wait for the next client, or keep the socket closed while that shows the link."""
        if self._withholds:
            self.state = AttachmentState.WITHHELD
            self._close_listener()
            return
        self.state = AttachmentState.WAITING
        self._await_vm()

    def _await_vm(self) -> None:
        if self._dormant:
            return
        if not self.server:
            self._connect()
        elif self._listener is not None:
            self._listener.resume()
        else:
            self._listen_again()

    def _link_came(self, event: LinkChanged | LinkSeen) -> None:
        """While the socket is closed no VM is attached whose device could react to the link."""
        if isinstance(event, LinkChanged) and self.state is AttachmentState.WITHHELD and self._nic.link_up:
            self._wait()

    def _listen(self) -> None:
        self._listen_on(listen_at(self.path, self._mode))
        self._moved()

    def _listen_again(self) -> None:
        self._retry = None
        try:
            self._listen()
        except NetError as error:
            self._log_once(f"cannot listen again: {error}")
            self._retry = self._loop.call_later(RETRY_S, self._listen_again)

    def _connect(self) -> None:
        """One attempt; connect() of a UNIX socket returns at once."""
        self._retry = None
        delay = self._gate.delay()
        if delay:
            self._retry = self._loop.call_later(delay, self._connect)
            return
        try:
            sock = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
        except OSError as error:  # no descriptors left
            self._log_once(f"cannot connect to {self.path}: {error.strerror}")
            self._retry = self._loop.call_later(RETRY_S, self._connect)
            return
        refused = sock.connect_ex(self.path)
        if refused:
            sock.close()
            if refused not in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN):
                self._log_once(f"cannot connect to {self.path}: {os.strerror(refused)}")
            self._retry = self._loop.call_later(RETRY_S, self._connect)
        else:
            self._accepted(sock)

    def _log_once(self, text: str) -> None:
        """Log once why retries fail."""
        if text != self._complaint:
            self._complaint = text
            log.error("%s: %s; trying on", self._nic.name, text)

    # --- The next process -------------------------------------------------------------------------------------

    def save_kept(self) -> tuple[VhostUserAttachmentRecord, VhostUserAttachmentHandles]:
        session = self.session if self.state is AttachmentState.ATTACHED else None
        listener = self._listener
        record = VhostUserAttachmentRecord(
            attachment=self._save(withheld=listener is None and self._withholds),
            shows_link=self._shows_link,
            session=None if session is None else session.save(),
        )
        client = None
        if session is not None:
            client = ClientHandles(*session.socket_fds, session.handles)
        listening = None if listener is None else listener.listening.handles
        return record, VhostUserAttachmentHandles(listening, client)

    def restore(self) -> bool:
        found = self._keep.inherited(self._key, VhostUserAttachmentRecord, VhostUserAttachmentHandles)
        if found is None:
            return False
        record, (listening, client) = found
        try:
            with within("attachment"):
                self._take_up(record.attachment, listening)
        except RecordError as error:
            close_fds(descriptors_of(listening))
            return self._refused(error, client)
        session = None
        self._begin_keeping()
        try:
            if record.session is not None:
                with within("session"):
                    session = self._restored(record.session, client)
        except RecordError as error:
            return self._refused(error, client)
        self._shows_link = record.shows_link
        self._taken_up(record.attachment, session)
        self._unsubscribe = self._nic.watch(self._link_came)
        return True

    def _restored(self, record: VhostUserSessionRecord, client: ClientHandles | None) -> VhostUserSession:
        """Raises RecordError, and leaves the descriptors to the caller then."""
        if client is None:
            raise RecordError("", "has no descriptors")
        sock, outbox = duplicates(
            client.sock, client.outbox
        )  # the session closes them if it refuses the record
        session = VhostUserSession(self, self._loop, sock, self._device, self._nic, self._kept, outbox)
        try:
            session.restore(record, client.session)
        except RecordError:
            session.refuse()
            raise
        close_fds((client.sock, client.outbox, *client.session.engine.memory))
        return session

    @property
    def device_handles(self) -> VirtioHandles:
        session = self.session
        return VirtioHandles() if session is None else VirtioHandles(session, session.memory)

    # --- Connect and disconnect -------------------------------------------------------------------------------

    def _begin(self, sock: socket.socket, outbox: int | None) -> VhostUserSession:
        self._complaint = ""
        self._shows_link = False
        session = VhostUserSession(self, self._loop, sock, self._device, self._nic, self._kept, outbox)
        session.begin()
        if self.server:
            self._gate.began(session.cut_off)
        return session

    def leaving(self, *, violated: bool) -> None:
        super().leaving(violated=violated)
        self._shows_link = self.session is not None and self.session.by_socket
        if self._withholds:
            self._close_listener()  # at once: QEMU would wait for an answer on a connection that is not accepted
        elif self._listener is not None:
            self._listener.pause()  # the next client is accepted, not refused, when the device is free

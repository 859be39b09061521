"""The back-end side of vhost-user, without a socket, for the front-end of a VM (UML, QEMU, DPDK's virtio-user).

The socket shell (`vnic.attach.vhost_user`) feeds bytes and descriptors, and writes the returned bytes. The engine
drives a virtio device, and calls the shell through `DeviceShell` to watch descriptors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from vnic.descriptors import close_fds
from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.map_record import restore_map, save_map
from vnic.protocol.frames import FrameError, Message, MessageQueue, MessageRecord
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.backend_record import BackendEngineRecord, BackendHandles
from vnic.protocol.vhost_user.interfaces import Device, DeviceShell
from vnic.protocol.vhost_user.messages import ProtocolError
from vnic.protocol.vhost_user.notices import ConfigNotices
from vnic.protocol.vhost_user.ring import check_channel
from vnic.protocol.vhost_user.ring_messages import RING_HANDLERS, RingHandler
from vnic.protocol.vhost_user.rings import DeviceRings, Later
from vnic.quota import MOST_FOR_EACH
from vnic.record import RecordError, within
from vnic.virtio.constants import (
    STATUS_ACKNOWLEDGE,
    STATUS_DRIVER,
    STATUS_DRIVER_OK,
    STATUS_FEATURES_OK,
)

log = logging.getLogger(__name__)

PROTOCOL_FEATURES: Final = (
    vu.P_MQ
    | vu.P_RARP
    | vu.P_REPLY_ACK
    | vu.P_MTU
    | vu.P_BACKEND_REQ
    | vu.P_CONFIG
    | vu.P_RESET_DEVICE
    | vu.P_CONFIGURE_MEM_SLOTS
    | vu.P_STATUS
)
"""What is offered. INBAND_NOTIFICATIONS is left out on purpose: a client that may use it (UML) then passes no kick
and call descriptors at all, so that every notification would go through this engine and none could be handed to a
vhost-user back-end. LOG_SHMFD is left out: nothing here logs dirty pages, so the VM cannot migrate."""

DRIVER_RUNNING: Final = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK
"""The status assumed while rings run, whatever status the client sends."""

_CONFIG_CHANGE: Final = vu.encode(vu.BACKEND_CONFIG_CHANGE)

MIN_MTU: Final = 68  # virtio 1.2 §5.1.4.1
MAC_BYTES: Final = 6
NET_STATUS: Final = 6  # offset of the 16-bit link status in a network device's config space (§5.1.4)


class Refused(Exception):
    """A valid request that is not served. The client gets an error if it asked for a reply."""


class BackendEngine:
    """One connection of one front-end. `feed` is the only way in; `close`, then `release`, give everything back.

    Every violation raises ProtocolError, after which the connection has to be closed. While `busy`, a message
    waits for a back-end to let go of the guest's rings; nothing may be fed until `shell.resume`.
    """

    def __init__(self, device: Device, memory: GuestMemory, shell: DeviceShell, *, queue_pairs: int) -> None:
        self._device = device
        self._shell = shell
        self._queue_pairs = queue_pairs
        self._memory = memory
        self._messages = MessageQueue(vu.assembler())
        self._working: Message | None = None
        """The message that waits for a back-end, while `busy`. No message that may wait has descriptors."""
        self._protocol_features = 0
        self._promised = 0
        """All features that were offered on this connection."""
        self.notices = ConfigNotices()
        self._closed = False
        self.busy = False
        self.request_fd: int | None = None
        self.rings = DeviceRings(device, memory, shell.watch_kick, self._rings_changed)

    # --- Bytes ---------------------------------------------------------------------------------------------

    wanted: Final = vu.READ_BYTES
    """The most bytes to read next."""

    @property
    def pending(self) -> bool:
        """A message has begun and is not complete."""
        return self._messages.pending

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> bytes:
        """Take one piece with its descriptors; returns the bytes to send back (often none)."""
        try:
            self._messages.feed(data, fds)
        except FrameError as error:
            raise ProtocolError(str(error)) from None
        return self._work()

    def _work(self, replies: bytes = b"") -> bytes:
        """Carry out the messages that are here; returns the bytes to send, which begin with `replies`."""
        try:
            while not self.busy and (message := self._messages.take()) is not None:
                replies += self._dispatch(message)
        except ProtocolError as error:
            error.replies = replies
            raise
        return replies

    def _dispatch(self, message: Message) -> bytes:
        number, flags, _ = vu.HEADER.unpack(message.header)
        row, handler = vu.REQUESTS.get(number), HANDLERS.get(number)
        try:
            if flags & vu.FLAG_REPLY:
                raise ProtocolError(f"{vu.request_name(number)} marked as a reply")
            if row is None or handler is None:
                raise Refused(f"{vu.request_name(number)} is not supported")
            row.check(len(message.payload), len(message.fds))
            reply = handler(self, message)
        except Refused as refusal:
            if not self._wants_ack(flags) or (row is not None and row.replies):
                raise ProtocolError(str(refusal)) from None
            log.warning("vhost-user: %s", refusal)
            return vu.encode(number, vu.U64.pack(1), vu.FLAG_REPLY)
        except GuestMemoryError as error:
            raise ProtocolError(f"{vu.request_name(number)}: {error}") from None
        except OSError as error:  # of a descriptor that came along, as one opened with O_PATH
            raise ProtocolError(f"{vu.request_name(number)}: {error.strerror}") from None
        finally:
            if message.fds:
                message.close()
        if isinstance(reply, Later):
            if not reply.done:
                self.busy, self._working = True, message
                reply.then = lambda: self._resolved(number, flags, reply.payload)
                return b""
            reply = reply.payload
        return self._reply(number, flags, reply)

    def _reply(self, number: int, flags: int, payload: bytes | None) -> bytes:
        if payload is None:
            if not self._wants_ack(flags):
                return b""
            payload = vu.U64.pack(0)
        return vu.encode(number, payload, vu.FLAG_REPLY)

    def _resolved(self, number: int, flags: int, payload: bytes | None) -> None:
        """A message that waited is complete, after its `feed` returned."""
        self.busy, self._working = False, None
        if self._closed:
            return
        try:
            replies = self._work(self._reply(number, flags, payload))
        except ProtocolError as error:
            self._shell.failed(error)
        else:
            self._shell.resume(replies)

    def _wants_ack(self, flags: int) -> bool:
        return bool(flags & vu.FLAG_NEED_REPLY) and self.has(vu.P_REPLY_ACK)

    # --- State for the shell ---------------------------------------------------------------------------

    def has(self, protocol_feature: int) -> bool:
        """Whether the client negotiated this protocol feature."""
        return bool(self._protocol_features & protocol_feature)

    @property
    def running(self) -> bool:
        """Whether the guest's driver uses the device: a ring is started and enabled."""
        return self.rings.running

    @property
    def descriptors(self) -> int:
        """The number of the client's descriptors that it holds or may hold, without those of memory."""
        waiting = MOST_FOR_EACH * self._messages.descriptors
        return self.rings.descriptors + waiting + (self.request_fd is not None)

    def close(self) -> None:
        """The connection has ended: stop watching and answering. The rings' descriptors stay open for a back-end that
        still has the rings, until `release`."""
        self._closed = True
        self.rings.unwatch()
        self._set_request_fd(None)
        self._messages.close()

    def release(self) -> None:
        """The rings are no longer accessed (VirtioDevice.detach is done): close their descriptors."""
        self.rings.forget()

    # --- State apart from descriptors ------------------------------------------------------------------------

    def save(self) -> BackendEngineRecord:
        """The record of an engine that is not closed."""
        return BackendEngineRecord(
            protocol_features=self._protocol_features,
            promised=self._promised,
            notices=self.notices.save(),
            request_channel=self.request_fd is not None,
            memory=save_map(self._memory)[0],
            rings=self.rings.save(),
            messages=self._messages.save(),
            working=None if self._working is None else MessageRecord.of(self._working),
        )

    @property
    def handles(self) -> BackendHandles:
        """The descriptors that belong to the record, still the engine's."""
        return BackendHandles(self.request_fd, save_map(self._memory)[1], self.rings.fds, self._messages.fds)

    def restore(self, record: BackendEngineRecord, handles: BackendHandles) -> None:
        """Take the place of the engine that was saved, whose memory is empty and whose device is not restored yet.
        The shell watches the kicks and the request channel from here on. Once the device is restored, `go_on` follows.

        Raises RecordError; then the descriptors are the caller's, and the memory is empty.
        """
        record.check(PROTOCOL_FEATURES, handles)
        if record.working is not None:
            with within("working"):
                self._messages.check_whole(record.working)
        with within("messages"):
            self._messages.check(record.messages, handles.messages)
        with within("memory"):
            restore_map(self._memory, record.memory, handles.memory)
        try:
            with within("rings"):
                self.rings.restore(record.rings, handles.rings)
        except RecordError:
            self._memory.close()
            raise
        self._messages.restore(record.messages, handles.messages)
        self._protocol_features, self._promised = record.protocol_features, record.promised
        self.notices.restore(record.notices)
        if record.working is not None:
            self.busy, self._working = True, Message(record.working.header, record.working.payload)
        self.request_fd = handles.request
        self._shell.requests_changed()

    def go_on(self) -> bytes:
        """Carry out the messages that waited when the engine was saved, the one in progress from its beginning;
        returns the bytes to send, as `feed`. Raises ProtocolError."""
        working, self._working, self.busy = self._working, None, False
        replies = b"" if working is None else self._dispatch(working)
        return self._work(replies)

    # --- Config space ---------------------------------------------------------------------------------------

    def _get_config(self, message: Message) -> bytes:
        # UML reads from offset 0 always, QEMU the whole space; the exact size is echoed.
        offset, size = self._config_range(message, "GET_CONFIG")
        data = self._device.read_config(offset, size)
        if offset <= NET_STATUS and offset + size >= NET_STATUS + 2:
            self.notices.read()
        return message.payload[: vu.CONFIG.size] + data

    def _set_config(self, message: Message) -> None:
        offset, size = self._config_range(message, "SET_CONFIG")
        if len(message.payload) != vu.CONFIG.size + size:
            raise ProtocolError(f"SET_CONFIG of {size} bytes in a payload of {len(message.payload)}")
        self._device.write_config(offset, message.payload[vu.CONFIG.size :])

    def _config_range(self, message: Message, name: str) -> tuple[int, int]:
        offset, size, _flags = vu.CONFIG.unpack_from(message.payload)
        if offset + size > vu.MAX_CONFIG:
            raise ProtocolError(f"{name} of {size} bytes at {offset}")
        if len(message.payload) not in (vu.CONFIG.size, vu.CONFIG.size + size):
            raise ProtocolError(f"{name} of {size} bytes in a payload of {len(message.payload)}")
        return offset, size

    def _set_backend_req_fd(self, message: Message) -> None:
        check_channel(message.fds[0], "SET_BACKEND_REQ_FD")
        self._set_request_fd(message.take()[0])

    def _set_request_fd(self, fd: int | None) -> None:
        old, self.request_fd = self.request_fd, fd
        self._shell.requests_changed()
        if old is not None:
            close_fds((old,))

    def take_notice(self) -> bytes | None:
        """The CONFIG_CHANGE message to send now, if there is a change and the client can be notified.

        Only while rings run: before that QEMU ends with SIGSEGV on it (seen with vhost-user-test-device), and
        the driver reads the config space when it starts anyway.
        """
        if self.request_fd is None or not self.rings.running or not self.has(vu.P_CONFIG):
            return None
        return _CONFIG_CHANGE if self.notices.take() else None

    # --- Features, status, reset ----------------------------------------------------------------------------

    def _offered(self) -> int:
        return self._device.host_features | vu.F_PROTOCOL_FEATURES

    def _get_features(self, message: Message) -> bytes:
        self._promised |= self._offered()
        return vu.U64.pack(self._offered())

    def _set_features(self, message: Message) -> Later | None:
        """Also how a new driver of a client without STATUS shows (UML lets the old one go with ENABLE 0 alone): the
        device is reset for it, so that it finds no filter and no MAC address of the one before."""
        (features,) = vu.U64.unpack(message.payload)
        surplus = features & ~(self._offered() | self._promised)
        if surplus:
            raise ProtocolError(f"SET_FEATURES with {surplus:#x}, which was not offered")
        if not self.running and not self.has(vu.P_STATUS):
            return self._reset_device(lambda: self._choose(features))
        self._choose(features)
        return None

    def _choose(self, features: int) -> None:
        chosen = features & ~vu.F_PROTOCOL_FEATURES
        # A back-end that came or went since GET_FEATURES may have changed the offer; what was promised is kept.
        self._device.host_features |= chosen
        self._device.set_features(chosen)
        if not features & vu.F_PROTOCOL_FEATURES:
            # Specification, "Ring states": rings are then enabled from their start.
            for ring in self.rings:
                self.rings.enable(ring, True)
            self._shell.negotiated()

    def _get_protocol_features(self, message: Message) -> bytes:
        return vu.U64.pack(PROTOCOL_FEATURES)

    def _set_protocol_features(self, message: Message) -> None:
        (features,) = vu.U64.unpack(message.payload)
        surplus = features & ~PROTOCOL_FEATURES
        if surplus:
            raise ProtocolError(f"SET_PROTOCOL_FEATURES with {surplus:#x}, which was not offered")
        self._protocol_features = features
        self._shell.negotiated()

    def _set_owner(self, message: Message) -> None:
        """Nothing to do: the connection is the owner."""

    def _reset(self, message: Message) -> Later:
        """RESET_DEVICE, and RESET_OWNER, which old front-ends send in its place: rings stopped and disabled."""
        return self._reset_device(self.rings.forget)

    def _reset_device(self, then: Callable[[], None] | None = None) -> Later:
        later = Later()

        def reset() -> None:
            if then is not None and not self._closed:
                then()
            self._rings_changed()
            later.resolve()

        self.rings.stop_all(lambda: self._device.reset(reset))
        return later

    def _get_queue_num(self, message: Message) -> bytes:
        """The maximum of queues, which front-ends count in two ways and only compare with what they want.

        QEMU's -netdev vhost-user counts queue pairs (net/vhost-user.c); it leaves CONFIG out and takes RARP. All others
        count virtqueues, the control queue too: Linux' virtio_uml since 6.13 (vu_find_vqs fails where there are fewer
        than it wants), QEMU's vhost-user-device, crosvm, Cloud Hypervisor. DPDK's virtio-user does not ask.
        """
        counts_pairs = self.has(vu.P_RARP) and not self.has(vu.P_CONFIG)
        return vu.U64.pack(self._queue_pairs if counts_pairs else len(self.rings))

    def _set_status(self, message: Message) -> Later | None:
        (status,) = vu.U64.unpack(message.payload)
        if status > 0xFF:
            raise ProtocolError(f"SET_STATUS with {status:#x}")
        if status == 0:
            return self._reset_device()
        self._device.set_status(status | (STATUS_DRIVER_OK if self.running else 0))
        return None

    def _get_status(self, message: Message) -> bytes:
        return vu.U64.pack(self._device.status)

    def _net_set_mtu(self, message: Message) -> None:
        (mtu,) = vu.U64.unpack(message.payload)
        if not MIN_MTU <= mtu <= 0xFFFF:
            raise Refused(f"NET_SET_MTU {mtu}")

    def _send_rarp(self, message: Message) -> None:
        """QEMU's announce-self, where the guest's driver has no GUEST_ANNOUNCE. The address fills the first bytes."""
        self._shell.announce(message.payload[:MAC_BYTES])

    def _rings_changed(self) -> None:
        """Keep the device's status in step with its rings, then tell the shell.

        Clients without STATUS tell no status, and QEMU's vhost-user-test-device, which negotiates it, never says
        DRIVER_OK: rings that run are what they have in common.
        """
        running, status = self.rings.running, self._device.status
        if running != bool(status & STATUS_DRIVER_OK):
            self._device.set_status(status | DRIVER_RUNNING if running else status & ~STATUS_DRIVER_OK)
        if not running:
            self.notices.driver_gone()
        self._shell.rings_changed()


Handler = Callable[[BackendEngine, Message], "bytes | Later | None"]


def _on_rings(handle: RingHandler) -> Handler:
    return lambda engine, message: handle(engine.rings, message)


HANDLERS: Final[dict[int, Handler]] = {
    vu.GET_FEATURES: BackendEngine._get_features,
    vu.SET_FEATURES: BackendEngine._set_features,
    vu.SET_OWNER: BackendEngine._set_owner,
    vu.RESET_OWNER: BackendEngine._reset,
    vu.GET_PROTOCOL_FEATURES: BackendEngine._get_protocol_features,
    vu.SET_PROTOCOL_FEATURES: BackendEngine._set_protocol_features,
    vu.GET_QUEUE_NUM: BackendEngine._get_queue_num,
    vu.SEND_RARP: BackendEngine._send_rarp,
    vu.NET_SET_MTU: BackendEngine._net_set_mtu,
    vu.SET_BACKEND_REQ_FD: BackendEngine._set_backend_req_fd,
    vu.GET_CONFIG: BackendEngine._get_config,
    vu.SET_CONFIG: BackendEngine._set_config,
    vu.RESET_DEVICE: BackendEngine._reset,
    vu.SET_STATUS: BackendEngine._set_status,
    vu.GET_STATUS: BackendEngine._get_status,
    **{number: _on_rings(handle) for number, handle in RING_HANDLERS.items()},
}
"""SET_LOG_BASE and SET_LOG_FD are not here: LOG_SHMFD is not offered, and who sends them is refused."""

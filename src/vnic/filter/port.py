"""A filter's end of a chardev, which mirror and redirector use: sends and receives frames without blocking.

Each frame has its length in front (filter-mirror.c). With the virtio header, 4 bytes between length and frame give the
size of that header: 0, 10 or 12 bytes at the start of the frame. The length counts the header, but not those 4 bytes
(net/net.c: net_fill_rstate with vnet_hdr).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec

from vnic.backend.base import BackendContext, Chardev
from vnic.backend.connection import (
    FramedConnection,
    FramedConnectionRecord,
    check_connection,
    restored_connection,
)
from vnic.backend.framing import LENGTH, Deframer, FramingError
from vnic.backend.kept_stream import KeptStream, StreamFds, new_kept_stream, take_up_kept_stream
from vnic.chardev.options import NullOptions
from vnic.chardev.socket import ChardevSocket, ChardevSocketRecord, SocketChardevState
from vnic.net.errors import DEVICE_NOT_FOUND, NetError
from vnic.net.offload import HEADER_BYTES, OffloadError, complete
from vnic.net.queue import Frame
from vnic.record import Record, require, within
from vnic.sockets.listener import Listening, ListeningHandles
from vnic.sockets.take_up import TakeUp, fileno

log = logging.getLogger("vnic.filter")

NO_HEADER = LENGTH.pack(0)
FULL_HEADER = LENGTH.pack(HEADER_BYTES)
HEADER_SIZES = (0, HEADER_BYTES, HEADER_BYTES + 2)
"""The sizes of virtio_net_hdr on the wire; num_buffers, the last two bytes, has no meaning here."""


class DiscardingDeframer(Deframer):
    """For a port that only sends: discards input."""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        return


class PortRecord(Record, frozen=True):
    """The state of a Port apart from its sockets."""

    socket: ChardevSocketRecord | None
    """None for the chardev `null`."""
    connection: FramedConnectionRecord | None
    dropped: Annotated[int, msgspec.Meta(ge=0)]

    def check_fields(self) -> None:
        is_open = self.socket is not None and self.socket.state is SocketChardevState.OPEN
        require(is_open is (self.connection is not None), "connection", "does not go with the socket")


class PortHandles(NamedTuple):
    """The sockets of a Port; they are its own after `restore`."""

    listening: Listening | None = None
    """None, too, if the chardev owns it."""
    connected: socket.socket | None = None


class PortFds(NamedTuple):
    """The descriptors of PortHandles."""

    listening: ListeningHandles | None
    connected: StreamFds


NO_PORT_FDS: Final = PortFds(None, StreamFds(None, None))


class Port:
    """The connection of one filter to one chardev. Frames that are sent without a peer are lost."""

    def __init__(
        self,
        context: BackendContext,
        label: str,
        user: str,
        *,
        vnet_hdr: bool,
        received: Callable[[bytes], None] | None = None,
        whose: str = "",
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Claim the chardev; `open` or `restore` follows. `user` is the filter's id; `received` gets whole frames,
        None: nothing is read; `whose` precedes QEMU's text if the chardev does not exist. `changed` is called when its
        state or its sockets are others."""
        self._loop = context.loop
        self._keeps = context.keep.active
        self._kept_stream: KeptStream | None = None
        self._changed = changed
        self._user = user
        self._vnet_hdr = vnet_hdr
        self._received = received
        self._connection: FramedConnection | None = None
        self._socket: ChardevSocket | None = None
        self._dropped = 0
        self._chardev = _find(context, label, whose)
        self._chardev.claim(f"filter {user}", listens=received is not None)
        try:
            if not isinstance(self._chardev.options, NullOptions):
                self._socket = ChardevSocket(self._loop, self._chardev, self, passes_fds=False)
        except BaseException:
            self._chardev.release()
            raise

    def open(self) -> None:
        """Listen, or start to connect. Raises NetError; `close` it all the same."""
        if self._socket is not None:
            self._socket.start()

    def save(self) -> PortRecord:
        return PortRecord(
            socket=None if self._socket is None else self._socket.save(),
            connection=None if self._connection is None else self._connection.save(),
            dropped=self._dropped,
        )

    @property
    def handles(self) -> PortHandles:
        """The sockets that belong to the record."""
        return PortHandles(
            None if self._socket is None else self._socket.listening,
            None if self._connection is None else self._connection.sock,
        )

    @property
    def fds(self) -> PortFds:
        """The descriptors that belong to the record."""
        listening, connected = self.handles
        stream = self._kept_stream
        return PortFds(
            None if listening is None else listening.handles,
            StreamFds(fileno(connected), None if stream is None else stream.fd),
        )

    def taken_up(self, taking: TakeUp, record: PortRecord, fds: PortFds) -> PortHandles:
        """What `check` and `restore` get. Raises RecordError."""
        connection = record.connection
        is_open = connection is not None and connection.lost is None
        require(
            fds.connected.memory is not None or not is_open, "connection", "has no memory of where it stands"
        )
        listening = taking.listening(record.socket.listening if record.socket else None, fds.listening)
        self._kept_stream = take_up_kept_stream(taking, fds.connected.memory)
        return PortHandles(listening, taking.socket(fds.connected.sock))

    def check(self, record: PortRecord, handles: PortHandles) -> None:
        """Raise RecordError if `restore` would."""
        has = self._socket is not None
        require(has is (record.socket is not None), "socket", "does not go with the chardev")
        if self._socket is not None and record.socket is not None:
            with within("socket"):
                self._socket.check(record.socket, handles.listening)
        with within("connection"):
            check_connection(record.connection, handles.connected)

    def restore(self, record: PortRecord, handles: PortHandles) -> None:
        """Go on in the place of the port that was saved; called instead of `open`. Raises RecordError."""
        self.check(record, handles)
        if self._socket is not None and record.socket is not None:
            self._socket.restore(record.socket, handles.listening)
        self._dropped = record.dropped
        self._connection = restored_connection(
            self._loop,
            record.connection,
            handles.connected,
            self,
            self._lost,
            self._deframer(),
            self._kept_stream,
        )
        if self._connection is not None:
            self._chardev.set_connected(self._connection.sock)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._log_dropped()
        if self._socket is not None:
            self._socket.close()
        if self._kept_stream is not None:
            self._kept_stream.close()
        self._chardev.release()

    def moved(self) -> None:
        """Its socket is another one."""
        self._changed()

    # -- ChardevUser ------------------------------------------------------------------------------------------------

    def awaiting(self, text: str) -> None:
        log.info("filter %s, chardev %s: %s", self._user, self._chardev.label, text)

    def opened(self, sock: socket.socket) -> None:
        if self._keeps and self._kept_stream is None:
            self._kept_stream = new_kept_stream(self.name)
        self._connection = FramedConnection(
            self._loop, sock, self, self._lost, self._deframer(), self._kept_stream
        )
        self._chardev.set_connected(sock)

    def _deframer(self) -> Deframer:
        if self._received is None:
            return DiscardingDeframer()
        return Deframer(LENGTH.size if self._vnet_hdr else 0)

    def _lost(self, reason: str) -> None:
        self._connection = None
        self._chardev.set_connected(None)
        self._log_dropped()
        assert self._socket is not None
        self._socket.rearm(reason)

    def _log_dropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("filter %s: chardev %s missed %d frames", self._user, self._chardev.label, dropped)

    # -- out --------------------------------------------------------------------------------------------------------

    def put(self, frame: Frame, offload: bytes, header: bool) -> None:
        """Send one frame; it is dropped if no peer is connected or the peer reads too slowly.

        `header`: the virtio header precedes the frame, for a peer that expects one. Otherwise an unfinished checksum or
        segmentation is completed first.
        """
        if self._connection is None:
            return
        if header and self._vnet_hdr:
            whole = (offload or bytes(HEADER_BYTES)) + frame
            self._put(whole, LENGTH.pack(len(whole)) + FULL_HEADER)
            return
        try:
            frames: list[Frame] = [*complete(offload, frame)] if offload else [frame]
        except OffloadError:
            return
        for each in frames:
            self._put(each, LENGTH.pack(len(each)) + NO_HEADER if self._vnet_hdr else b"")

    def _put(self, frame: Frame, prefix: bytes) -> None:
        if self._connection is None or self._connection.send(frame, prefix):
            return
        if not self._dropped:
            log.warning(
                "filter %s: the peer of chardev %s reads too slowly, frames are lost",
                self._user,
                self._chardev.label,
            )
        self._dropped += 1
        self._changed()

    # -- in (FrameUser) ---------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return f"filter {self._user}"

    def send(self, queue: int, frame: Frame) -> bool:
        """Process a frame from the peer. Offloads that its header requests are done here, so that later code need not
        trust the header."""
        assert self._received is not None
        if not self._vnet_hdr:
            self._received(bytes(frame))
            return True
        (size,) = LENGTH.unpack_from(frame)
        frame = memoryview(frame)[LENGTH.size :]
        if size not in HEADER_SIZES or size > len(frame):
            raise FramingError(f"a virtio header of {size} bytes before a frame of {len(frame)}")
        try:
            frames = complete(bytes(frame[:HEADER_BYTES]), frame[size:]) if size else [bytes(frame)]
        except OffloadError as error:
            log.debug("filter %s: a frame is dropped: %s", self._user, error)
            return True
        for each in frames:
            self._received(each)
        return True

    def flush(self, queue: int) -> None:
        """The peer has room again; nothing is queued for it."""


def _find(context: BackendContext, label: str, whose: str) -> Chardev:
    try:
        return context.chardevs.find(label)
    except NetError:
        raise NetError(f"{whose}Device '{label}' not found", DEVICE_NOT_FOUND) from None

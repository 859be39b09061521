"""TransportBackend: the base of netdevs whose frames pass over one socket at a time.

stream, socket, dgram and passt derive from it. Its transport is a FramedConnection or a DatagramPort.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeAlias

from vnic.backend.base import Backend, BackendContext
from vnic.backend.connection import FramedConnection, FramedConnectionRecord, restored_connection
from vnic.backend.datagram import DatagramPort, DatagramPortRecord
from vnic.backend.kept_stream import KeptStream, StreamFds, new_kept_stream, take_up_kept_stream
from vnic.net.lending import LentEnd
from vnic.net.queue import Frame
from vnic.record import Record, require, within
from vnic.sockets.take_up import TakeUp, fileno

Transport: TypeAlias = FramedConnection | DatagramPort
"""A connected socket that carries frames."""


class TransportRecord(Record, frozen=True):
    """The state of a transport apart from its socket. Without `connection` and `port` there is none."""

    connection: FramedConnectionRecord | None
    port: DatagramPortRecord | None

    def check_fields(self) -> None:
        require(self.connection is None or self.port is None, "port", "is there beside a connection")

    @property
    def there(self) -> bool:
        return self.connection is not None or self.port is not None

    def check(self, sock: socket.socket | None) -> None:
        """Raise RecordError unless this socket goes with it."""
        if self.connection is not None:
            with within("connection"):
                self.connection.check(sock)
        else:
            passed = "no socket was passed" if sock is None else "a socket was passed"
            require((self.port is None) is (sock is None), "port", passed)


class TransportBackend(Backend):
    """Frames are dropped while there is no transport."""

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._transport: Transport | None = None
        self._kept_stream: KeptStream | None = None

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return self._transport is None or self._transport.send(frame)

    def sent(self, queue: int) -> None:
        if self._transport is not None:
            self._transport.resume()

    def wire_end(self) -> LentEnd | str:
        return self._transport or "its peer is not connected"

    def connect_frames(self, sock: socket.socket, lost: Callable[[str], None]) -> None:
        """The frames pass over this connected stream socket from now on."""
        if self._kept_stream is None and self.context.keep.active:
            self._kept_stream = new_kept_stream(self.name)
        self._transport = FramedConnection(self.loop, sock, self.client, lost, kept=self._kept_stream)

    @property
    def stream_fds(self) -> StreamFds:
        """The descriptors of a connection that carries frames."""
        stream = self._kept_stream
        return StreamFds(fileno(self.transport_socket), None if stream is None else stream.fd)

    def take_up_stream(self, taking: TakeUp, record: TransportRecord, fds: StreamFds) -> socket.socket | None:
        """The socket, as `restore_transport` takes it. Raises RecordError."""
        is_stream = record.connection is not None and record.connection.lost is None
        require(fds.memory is not None or not is_stream, "connection", "has no memory of where it stands")
        self._kept_stream = take_up_kept_stream(taking, fds.memory)
        return taking.socket(fds.sock)

    # -- state apart from the socket ----------------------------------------------------------------------------

    def save_transport(self) -> TransportRecord:
        each = self._transport
        return TransportRecord(
            connection=each.save() if isinstance(each, FramedConnection) else None,
            port=each.save() if isinstance(each, DatagramPort) else None,
        )

    @property
    def transport_socket(self) -> socket.socket | None:
        """The socket that belongs to the record."""
        return None if self._transport is None else self._transport.sock

    def restore_transport(
        self, record: TransportRecord, sock: socket.socket | None, lost: Callable[[str], None]
    ) -> None:
        """Go on with a record that was checked; `lost` is that of a FramedConnection."""
        if record.port is not None:
            assert sock is not None
            self._transport = DatagramPort(self.loop, sock, self.client, record.port.target)
            self._transport.restore(record.port)
        else:
            self._transport = restored_connection(
                self.loop, record.connection, sock, self.client, lost, kept=self._kept_stream
            )

    def close_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def close_stream(self) -> None:
        """The netdev is gone: no connection follows."""
        if self._kept_stream is not None:
            self._kept_stream.close()
            self._kept_stream = None

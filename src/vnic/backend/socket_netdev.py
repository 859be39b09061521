"""socket: QEMU's older netdev for a TCP peer, UDP or UDP multicast (net/socket.c); stream and dgram replace it.

The registry makes it. Like stream it holds the link down while a TCP peer is missing; unlike stream it emits no events.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Coroutine
from typing import Any, NamedTuple

from vnic.backend.base import BackendContext, log
from vnic.backend.datagram import (
    DatagramPort,
    Hosts,
    Inet4,
    family_word,
    inet4_text,
    multicast_socket,
    udp_socket,
)
from vnic.backend.kept_stream import StreamFds
from vnic.backend.options import SocketOptions
from vnic.backend.transport import TransportBackend, TransportRecord
from vnic.descriptors import close_fds
from vnic.net.errors import NetError
from vnic.record import U16, Record, RecordError, require, within
from vnic.sockets.address import InetAddress
from vnic.sockets.connect import Connector, set_stream_options
from vnic.sockets.listener import Listener, Listening, ListeningHandles, ListeningRecord
from vnic.sockets.take_up import TakeUp


class SocketRecord(Record, frozen=True):
    """The state of a SocketBackend apart from its sockets."""

    info: str
    """As `info network` prints it."""
    listening: ListeningRecord | None
    transport: TransportRecord
    connecting: str | None
    """The IPv4 address of the only attempt to connect, while that is under way; with `connecting_port`."""
    connecting_port: U16 | None

    def check_fields(self) -> None:
        whole = (self.connecting is None) is (self.connecting_port is None)
        require(whole, "connecting_port", "does not go with the address")
        try:
            ipaddress.IPv4Address(self.connecting or "0.0.0.0")
        except ValueError as error:
            raise RecordError("connecting", str(error)) from None
        require(self.connecting is None or not self.transport.there, "connecting", "beside a connection")


class SocketHandles(NamedTuple):
    """The sockets of a SocketBackend; they are its own after `restore`."""

    listening: Listening | None
    sock: socket.socket | None


class SocketFds(NamedTuple):
    """The descriptors of SocketHandles."""

    listening: ListeningHandles | None
    connected: StreamFds


class SocketBackend(TransportBackend):
    """One socket netdev."""

    kept_type = SocketRecord, SocketFds

    def __init__(self, context: BackendContext, options: SocketOptions) -> None:
        super().__init__(context)
        given = [options.fd, options.listen, options.connect, options.mcast, options.udp]
        if sum(each is not None for each in given) != 1:
            raise NetError("exactly one of listen=, connect=, mcast= or udp= is required")
        if options.localaddr is not None and options.mcast is None and options.udp is None:
            raise NetError("localaddr= is only valid with mcast= or udp=")
        if options.udp is not None and options.localaddr is None:
            raise NetError("localaddr= is mandatory with udp=")
        self._options = options
        self._hosts = Hosts()
        self._info = ""
        self._connecting: Inet4 | None = None
        self._listener: Listener | None = None
        self._connector: Connector | None = None

    def preparation(self) -> Coroutine[Any, Any, None] | None:
        """Look up host names first."""
        options = self._options
        texts = [options.listen, options.connect, options.mcast, options.udp]
        if options.udp is not None:
            texts.append(options.localaddr)
        return self._hosts.preparation(
            self.loop, [text.partition(":")[0] for text in texts if text and ":" in text]
        )

    def start(self) -> None:
        options = self._options
        if options.fd is not None:
            self._start_fd(options.fd)
        elif options.listen is not None:
            self._start_listen(self._hosts.parse(options.listen))
        elif options.connect is not None:
            self._start_connect(self._hosts.parse(options.connect))
        elif options.mcast is not None:
            group = self._hosts.parse(options.mcast)
            self._start_datagrams(multicast_socket(group, options.localaddr), group)
            self._info = f"socket: mcast={inet4_text(group)}"
        else:
            here, there = self._hosts.parse(options.localaddr or ""), self._hosts.parse(options.udp or "")
            self._start_datagrams(udp_socket(here), there)
            self._info = f"socket: udp={inet4_text(there)}"

    # -- state apart from sockets -------------------------------------------------------------------------------

    def save(self) -> SocketRecord:
        host, port = self._connecting or (None, None)
        return SocketRecord(
            info=self._info,
            listening=None if self._listener is None else self._listener.listening.save(),
            transport=self.save_transport(),
            connecting=host,
            connecting_port=port,
        )

    @property
    def handles(self) -> SocketHandles:
        """The sockets that belong to the record."""
        listening = None if self._listener is None else self._listener.listening
        return SocketHandles(listening, self.transport_socket)

    def save_kept(self) -> tuple[SocketRecord, SocketFds]:
        listening = None if self._listener is None else self._listener.listening.handles
        return self.save(), SocketFds(listening, self.stream_fds)

    def take_up(self, record: SocketRecord, handles: SocketFds) -> None:
        with TakeUp(handles) as taking:
            listening = taking.listening(record.listening, handles.listening)
            sock = self.take_up_stream(taking, record.transport, handles.connected)
            self.restore(record, SocketHandles(listening, sock))

    def restore(self, record: SocketRecord, handles: SocketHandles) -> None:
        """Go on in the place of the netdev that was saved; called instead of `start`, and needs no `preparation`. An
        attempt to connect is made anew. Raises RecordError, and leaves the sockets to the caller then."""
        listens = self._options.listen is not None
        passed = f"{'no' if listens else 'a'} listening socket was passed"
        require(listens is (handles.listening is not None), "", passed)
        connects = record.connecting is None or self._options.connect is not None
        require(connects, "connecting", "of a netdev that does not connect")
        with within("transport"):
            record.transport.check(handles.sock)
        self._info = record.info
        if handles.listening is not None:
            self._listen(handles.listening)
            if record.transport.there and self._listener is not None:
                self._listener.pause()
        self.restore_transport(record.transport, handles.sock, self._lost)
        if record.connecting is not None and record.connecting_port is not None:
            self._connecting = record.connecting, record.connecting_port
            self.loop.call_soon(self._connect)

    def _start_datagrams(self, sock: socket.socket, target: Inet4 | None) -> None:
        self._transport = DatagramPort(self.loop, sock, self.client, target)

    def _start_fd(self, name: str) -> None:
        try:
            fd = self.context.fds.take(name)
        except NetError as error:
            prefix = f"{self.name}: " if error.desc.startswith("Can't") else ""
            raise NetError(f"{prefix}{error.desc}") from None
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            close_fds([fd])
            raise NetError("can't get socket option SO_TYPE") from None
        if sock.type == socket.SOCK_DGRAM:
            self._start_datagrams(sock, None)
            self._info = f"socket: fd={fd} {family_word(sock)}"
        elif sock.type == socket.SOCK_STREAM:
            self._carry(sock, f"socket: fd={fd}")
        else:
            sock.close()
            raise NetError(f"socket type={sock.type} for fd={fd} must be either SOCK_DGRAM or SOCK_STREAM")

    # -- TCP ----------------------------------------------------------------------------------------------------

    def _start_listen(self, address: Inet4) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(1)
        except OSError as error:
            sock.close()
            raise NetError(f"can't bind ip={address[0]} to socket: {error.strerror}") from None
        self._listen(Listening(sock))
        self.hold_disconnected(f"listening on {self._listening_on}, no peer yet")

    def _listen(self, listening: Listening) -> None:
        self._listening_on = f"tcp:{inet4_text(listening.socket.getsockname())}"
        self._listener = Listener(self.loop, listening, self._accepted, f"netdev {self.name}")

    def _accepted(self, sock: socket.socket) -> None:
        try:
            name = sock.getpeername()
        except OSError:  # the peer has disconnected already
            sock.close()
            return
        if self._listener is not None:
            self._listener.pause()
        self._carry(sock, f"socket: connection from {inet4_text(name)}")

    def _start_connect(self, address: Inet4) -> None:
        self._info = f"socket: connect to {inet4_text(address)}"
        self.hold_disconnected(f"connecting to tcp:{inet4_text(address)}")
        self._connecting = address
        self._connect()

    def _connect(self) -> None:
        if self._connecting is None:
            return  # the netdev was deleted
        host, port = self._connecting
        target = InetAddress(host=host, port=str(port))
        # It tries once, as QEMU's, which has no reconnect.
        self._connector = Connector(self.loop, target, self._connected, self._connect_failed)

    def _connected(self, sock: socket.socket) -> None:
        self._connector = self._connecting = None
        self._carry(sock, self._info)

    def _connect_failed(self, text: str) -> None:
        self._connector = self._connecting = None
        self._info = ""
        self.moved()
        self.hold_disconnected(text)
        log.warning("netdev %s: %s", self.name, text)

    def _carry(self, sock: socket.socket, info: str) -> None:
        sock.setblocking(False)
        set_stream_options(sock)
        self._info = info
        self.connect_frames(sock, self._lost)
        self.release_disconnected(self.far_end_text() or "")

    def far_end_text(self) -> str | None:
        return None if self._transport is None else self._info.removeprefix("socket: ")

    def _lost(self, reason: str) -> None:
        self._transport = None
        self._info = ""
        self.moved()
        if self._listener is None:
            self.hold_disconnected(f"{reason}; socket does not connect again, stream does")
            return
        self.hold_disconnected(f"{reason}; listening on {self._listening_on}")
        self._listener.resume()

    # -- Endpoint -----------------------------------------------------------------------------------------------

    def info_text(self, queue: int) -> str:
        return self._info

    def cleanup(self) -> None:
        self._connecting = None
        if self._connector is not None:
            self._connector.cancel()
        if self._listener is not None:
            self._listener.close()
        self.close_transport()
        self.close_stream()

"""stream: frames to and from one peer over a unix or TCP socket, as server or client (QEMU's net/stream.c).

The registry makes it. While no peer is connected it holds the link down, so that the guest sees it; with QEMU the
guest's link stays up.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from typing import Any, Final, NamedTuple

from vnic.backend.base import BackendContext, log
from vnic.backend.kept_stream import StreamFds
from vnic.backend.options import StreamOptions
from vnic.backend.transport import TransportBackend, TransportRecord
from vnic.lifecycle import Lifecycle, Moves
from vnic.net.client import clients_of_wire
from vnic.net.errors import NetError
from vnic.net.records import HoldKind
from vnic.record import U64, Record, left_us, require, within
from vnic.sockets.address import (
    FdAddress,
    InetAddress,
    UnixAddress,
    VsockAddress,
    describe,
    qmp_address,
    socket_uri,
)
from vnic.sockets.bind import socket_mode
from vnic.sockets.connect import Connector, refuse_descriptors, set_stream_options
from vnic.sockets.listener import (
    Listener,
    Listening,
    ListeningHandles,
    ListeningRecord,
    listen_on,
    listen_on_passed,
)
from vnic.sockets.passed import stream_socket_from_fd
from vnic.sockets.resolve import AddressError, Resolved, resolve
from vnic.sockets.take_up import TakeUp


class StreamState(enum.Enum):
    """The state of a stream."""

    NEW = "new"
    LISTENING = "listening"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """Waiting for the time of the next attempt."""
    WITHHELD = "withheld"
    """The socket is closed to show the far end that our link is down (link-propagate=on)."""
    ENDED = "ended"
    """The end: the only attempt failed, the only connection ended, or the netdev was deleted."""


MOVES: Final[Moves[StreamState]] = {
    StreamState.NEW: frozenset(
        {
            StreamState.LISTENING,
            StreamState.WAITING,
            StreamState.CONNECTED,
            StreamState.WITHHELD,
            StreamState.ENDED,
        }
    ),
    StreamState.LISTENING: frozenset({StreamState.CONNECTED, StreamState.WITHHELD, StreamState.ENDED}),
    StreamState.CONNECTING: frozenset(
        {StreamState.CONNECTED, StreamState.WAITING, StreamState.WITHHELD, StreamState.ENDED}
    ),
    StreamState.CONNECTED: frozenset(
        {StreamState.LISTENING, StreamState.WAITING, StreamState.WITHHELD, StreamState.ENDED}
    ),
    StreamState.WAITING: frozenset({StreamState.CONNECTING, StreamState.WITHHELD, StreamState.ENDED}),
    StreamState.WITHHELD: frozenset({StreamState.NEW, StreamState.ENDED}),
    StreamState.ENDED: frozenset(),
}


class StreamRecord(Record, frozen=True):
    """The state of a StreamBackend apart from its sockets."""

    state: StreamState
    info: str
    """As `info network` prints it."""
    listening: ListeningRecord | None
    transport: TransportRecord
    wait_us: U64 | None
    """In WAITING, the time to the next attempt."""

    def check_fields(self) -> None:
        state = self.state.value
        connected = self.state is StreamState.CONNECTED
        require(connected is self.transport.there, "transport", f"does not go with {state}")
        require(self.transport.port is None, "transport.port", "is not that of a stream")
        waiting = self.state is StreamState.WAITING
        require(waiting is (self.wait_us is not None), "wait_us", f"does not go with {state}")


class StreamHandles(NamedTuple):
    """The sockets of a StreamBackend; they are its own after `restore`."""

    listening: Listening | None
    connected: socket.socket | None


class ServerFds(NamedTuple):
    """The descriptors of StreamHandles."""

    listening: ListeningHandles | None
    connected: StreamFds


class StreamBackend(TransportBackend):
    """One stream netdev."""

    state = Lifecycle(StreamState.NEW, MOVES, "moved")
    kept_type = StreamRecord, ServerFds

    def __init__(self, context: BackendContext, options: StreamOptions) -> None:
        super().__init__(context)
        if isinstance(options.addr, VsockAddress):
            raise NetError("stream supports addresses of type 'inet', 'unix' and 'fd' only")
        if options.server and options.reconnect_ms is not None:
            raise NetError("'reconnect-ms' option is incompatible with socket in server mode")
        if options.reconnect_ms is not None and not 0 <= options.reconnect_ms <= 0xFFFFFFFF:
            raise NetError("Parameter 'reconnect-ms' expects a number of milliseconds")
        if options.link_propagate and isinstance(options.addr, FdAddress):
            raise NetError(
                "'link-propagate' option is incompatible with a passed socket, which does not come back"
            )
        if options.link_propagate and not options.server and not options.reconnect_ms:
            raise NetError("'link-propagate' option of a client needs 'reconnect-ms', to come back")
        self._propagates = options.link_propagate
        self._address: InetAddress | UnixAddress | FdAddress = options.addr
        self._server = options.server
        self._mode = socket_mode(options.mode)
        is_path = isinstance(options.addr, UnixAddress) and not options.addr.abstract
        if options.mode is not None and not (options.server and is_path):
            raise NetError("Parameter 'mode' is that of a path with server=on")
        self._reconnect_s = (options.reconnect_ms or 0) / 1000
        self._info = "initializing" if options.server else "connecting"
        self._listener: Listener | None = None
        self._connector: Connector | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancel_resolve = _nothing

    def start(self) -> None:
        if isinstance(self._address, FdAddress):
            sock = stream_socket_from_fd(self.context.fds.take_socket(self._address.text))
            if self._server:
                self._listen(listen_on_passed(sock))
            else:
                self._start_from_fd(sock)
        elif self._propagates and self._own_link_down():
            self._withhold()
        else:
            self._open()

    def _open(self) -> None:
        """Listen, or start to connect."""
        assert isinstance(self._address, InetAddress | UnixAddress)
        self.state = StreamState.NEW
        if self._server:
            self.hold_disconnected(f"about to listen on {describe(self._address)}")
            self._cancel_resolve = resolve(
                self.loop, self._address, passive=True, found=self._bind, failed=self._failed
            )
        else:
            self.hold_disconnected(f"connecting to {describe(self._address)}")
            # In the loop's next turn: the client that adds the netdev gets its reply before the netdev's events, as
            # from QEMU.
            self.state = StreamState.WAITING
            self._timer = self.loop.call_later(0, self._connect)

    # -- state apart from sockets -------------------------------------------------------------------------------

    def save(self) -> StreamRecord:
        timer = self._timer if self.state is StreamState.WAITING else None
        return StreamRecord(
            state=self.state,
            info=self._info,
            listening=None if self._listener is None else self._listener.listening.save(),
            transport=self.save_transport(),
            wait_us=None if timer is None else left_us(timer.when(), self.loop.time()),
        )

    @property
    def handles(self) -> StreamHandles:
        """The sockets that belong to the record."""
        return StreamHandles(
            None if self._listener is None else self._listener.listening, self.transport_socket
        )

    def save_kept(self) -> tuple[StreamRecord, ServerFds]:
        listening = None if self._listener is None else self._listener.listening.handles
        return self.save(), ServerFds(listening, self.stream_fds)

    def take_up(self, record: StreamRecord, handles: ServerFds) -> None:
        with TakeUp(handles) as taking:
            listening = taking.listening(record.listening, handles.listening)
            sock = self.take_up_stream(taking, record.transport, handles.connected)
            self.restore(record, StreamHandles(listening, sock))

    def restore(self, record: StreamRecord, handles: StreamHandles) -> None:
        """Go on in the place of the netdev that was saved; called instead of `start`. A look-up or an attempt to
        connect that was under way is made anew. Raises RecordError, and leaves the sockets to the caller then."""
        state = record.state
        fits = {
            StreamState.LISTENING: self._server,
            StreamState.WAITING: not self._server,
            StreamState.CONNECTING: not self._server,
            StreamState.WITHHELD: self._propagates,
            StreamState.NEW: not isinstance(self._address, FdAddress),
        }
        require(fits.get(state, True), "state", f"is {state.value}, which this stream cannot be")
        listens = self._server and state in (StreamState.LISTENING, StreamState.CONNECTED)
        passed = "no" if listens else "a"
        agree = listens is (handles.listening is not None)
        require(agree, "state", f"is {state.value}, and {passed} listening socket was passed")
        with within("transport"):
            record.transport.check(handles.connected)
        StreamBackend.state.restore(self, state)
        self._info = record.info
        if handles.listening is not None:
            self._listener = Listener(self.loop, handles.listening, self._accepted, f"netdev {self.name}")
            if state is StreamState.CONNECTED:
                self._listener.pause()
        self.restore_transport(record.transport, handles.connected, self._lost)
        if state is StreamState.NEW:
            self._open()
        elif state in (StreamState.WAITING, StreamState.CONNECTING):
            StreamBackend.state.restore(self, StreamState.WAITING)
            wait_us = max(0, (record.wait_us or 0) - self.age_us)
            self._timer = self.loop.call_later(wait_us / 1e6, self._connect)

    # -- server -------------------------------------------------------------------------------------------------

    def _bind(self, targets: list[Resolved]) -> None:
        if self.state in (StreamState.ENDED, StreamState.WITHHELD):
            return
        assert isinstance(self._address, InetAddress | UnixAddress)
        try:
            listening = listen_on(targets, self._address, self._mode)
        except AddressError as error:
            self._failed(error.desc)
            return
        self._listen(listening)

    def _listen(self, listening: Listening) -> None:
        refuse_descriptors(listening.socket)  # those who connect inherit it
        self._listener = listener = Listener(self.loop, listening, self._accepted, f"netdev {self.name}")
        self.state = StreamState.LISTENING
        self._info = "listening"
        self.hold_disconnected(f"listening on {self._listening_on(listener)}, no peer yet")

    def _listening_on(self, listener: Listener) -> str:
        """The address, with the port that the kernel chose."""
        family, sockaddr = listener.sockaddr
        if isinstance(self._address, FdAddress) or family != socket.AF_UNIX:
            return socket_uri(family, sockaddr)
        return describe(self._address)

    def _accepted(self, sock: socket.socket) -> None:
        name = sock.getsockname() if sock.family == socket.AF_UNIX else _peer_name(sock)
        if name is None:  # the peer has disconnected already
            sock.close()
            return
        if self._listener is not None:
            self._listener.pause()
        self._connected(sock, name)

    # -- client -------------------------------------------------------------------------------------------------

    def _start_from_fd(self, sock: socket.socket) -> None:
        """Use a passed socket, which may not be connected."""
        name = _peer_name(sock)
        if name is None:
            sock.close()
            raise NetError("The socket passed in is not connected")
        set_stream_options(sock)
        self._connected(sock, name)

    def _connect(self) -> None:
        assert isinstance(self._address, InetAddress | UnixAddress)
        self._timer = None
        self.state = StreamState.CONNECTING
        self._connector = Connector(self.loop, self._address, self._connect_done, self._connect_failed)

    def _connect_done(self, sock: socket.socket) -> None:
        self._connector = None
        name = _peer_name(sock)
        if name is None:
            sock.close()
            self._connect_failed(
                f"Failed to connect to '{describe(self._address)}': Connection reset by peer"
            )
            return
        self._connected(sock, name)

    def _connect_failed(self, text: str) -> None:
        self._connector = None
        if self._reconnect_s and self.state is not StreamState.ENDED:
            reason = text.rpartition(": ")[2]
            self._wait(f"connect to {describe(self._address)} failed: {reason}")
        else:
            self._failed(text)

    def _wait(self, text: str) -> None:
        self.state = StreamState.WAITING
        self._info = "connecting"
        self.hold_disconnected(f"{text}; trying again every {self._reconnect_s:g} s")
        self._timer = self.loop.call_later(self._reconnect_s, self._connect)

    # -- both ---------------------------------------------------------------------------------------------------

    def _connected(self, sock: socket.socket, name: Any) -> None:
        self.state = StreamState.CONNECTED
        self._info = socket_uri(sock.family, name)
        data: dict[str, object] = {"netdev-id": self.name, "addr": qmp_address(sock.family, name)}
        self.connect_frames(sock, self._lost)
        self.release_disconnected(self.far_end_text() or "")
        if self.client.created:
            self.context.emit("NETDEV_STREAM_CONNECTED", data)
        else:  # a passed socket: the event follows the netdev's creation
            self.loop.call_soon(self.context.emit, "NETDEV_STREAM_CONNECTED", data)

    def far_end_text(self) -> str | None:
        return f"connected: {self._info}" if self.state is StreamState.CONNECTED else None

    def _lost(self, reason: str) -> None:
        self._transport = None
        if self._listener is not None:
            self.state = StreamState.LISTENING
            self._info = "listening"
            self.hold_disconnected(f"{reason}; listening on {self._listening_on(self._listener)}")
        elif self._reconnect_s:
            self._wait(reason)
        else:
            self.state = StreamState.ENDED
            self.hold_disconnected(f"{reason}; there is no reconnect-ms, so it stays so")
        self.context.emit("NETDEV_STREAM_DISCONNECTED", {"netdev-id": self.name})
        if self._listener is not None:
            self._listener.resume()

    def _failed(self, text: str) -> None:
        """Stop. As in QEMU, the netdev stays and its info says why."""
        self.state = StreamState.ENDED
        self._info = f"error: {text}"
        self.hold_disconnected(text)
        log.warning("netdev %s: %s", self.name, text)

    # -- link-propagate -----------------------------------------------------------------------------------------

    def _own_link_down(self) -> bool:
        """Whether this end is down for a reason besides the missing far end."""
        ends = clients_of_wire(self.client)
        reasons = {(end, kind) for end in ends for kind in end.holds}
        return bool(reasons - {(self.client, HoldKind.DISCONNECTED)})

    def link_status_changed(self) -> None:
        if not self._propagates or self.state is StreamState.ENDED:
            return
        down = self._own_link_down()
        if down and self.state is not StreamState.WITHHELD:
            self._withhold()
        elif not down and self.state is StreamState.WITHHELD:
            self._open()

    def peer_changed(self) -> None:
        self.link_status_changed()

    def _withhold(self) -> None:
        connected = self._transport is not None
        self._close_sockets()
        self.state = StreamState.WITHHELD
        self._info = "closed while the link is down"
        self.hold_disconnected("the socket is closed to show the far end that the link is down")
        if connected:
            self.context.emit("NETDEV_STREAM_DISCONNECTED", {"netdev-id": self.name})

    # -- Endpoint -----------------------------------------------------------------------------------------------

    def info_text(self, queue: int) -> str:
        return self._info

    def cleanup(self) -> None:
        self.state = StreamState.ENDED
        self._close_sockets()
        self.close_stream()

    def _close_sockets(self) -> None:
        self._cancel_resolve()
        for each in (self._timer, self._connector):
            if each is not None:
                each.cancel()
        if self._listener is not None:
            self._listener.close()
        self._timer = self._connector = self._listener = None
        self.close_transport()


def _peer_name(sock: socket.socket) -> Any:
    """The far end's name, or None if there is no far end."""
    try:
        return sock.getpeername()
    except OSError:
        return None


def _nothing() -> None:
    return

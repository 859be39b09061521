"""passt: a user-mode network in another program, which vnic starts, watches and restarts (QEMU's net/passt.c).

The registry makes it for `-netdev passt` and `-netdev user`, with different arguments. passt uses one end of a socket
pair, with the framing of stream.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import ClassVar, NamedTuple

from vnic.backend.base import Backend, BackendContext, log
from vnic.backend.kept_stream import StreamFds
from vnic.backend.options import PasstOptions
from vnic.backend.passt.arguments import passt_arguments
from vnic.backend.passt.process import PasstKeeper, PasstRecord, PasstSocket, PasstState
from vnic.backend.transport import TransportBackend, TransportRecord
from vnic.record import Record, require, within
from vnic.sockets.take_up import TakeUp


class PasstBackendRecord(Record, frozen=True):
    """The state of a PasstBackend apart from its socket and the pidfd of its passt."""

    passt: PasstRecord
    transport: TransportRecord
    logged: str
    """The last reason in the log for which passt does not serve."""

    def check_fields(self) -> None:
        serves = self.passt.state is PasstState.SERVING
        connected = self.transport.connection is not None
        require(serves is connected, "transport.connection", f"does not go with {self.passt.state.value}")
        require(self.transport.port is None, "transport.port", "is not that of a passt")


class PasstHandles(NamedTuple):
    """The descriptors of a PasstBackend; they are its own after `restore`."""

    sock: socket.socket | None = None
    pidfd: int | None = None


class PasstFds(NamedTuple):
    """The descriptors of PasstHandles."""

    stream: StreamFds
    pidfd: int | None


class PasstBackend(TransportBackend):
    """A netdev whose far end is a passt that the netdev runs."""

    kept_type: ClassVar[tuple[type[PasstBackendRecord], type[PasstFds]]] = (PasstBackendRecord, PasstFds)

    def __init__(self, context: BackendContext, arguments: list[str]) -> None:
        super().__init__(context)
        self._keeper = PasstKeeper(context.loop, arguments, self)
        self._pair: tuple[socket.socket, socket.socket] | None = None
        """Our end and passt's, while it starts."""
        self._said = ""

    def start(self) -> None:
        self._keeper.start()

    # -- state apart from the socket ----------------------------------------------------------------------------

    def save(self) -> PasstBackendRecord:
        return PasstBackendRecord(
            passt=self._keeper.save(), transport=self.save_transport(), logged=self._said
        )

    @property
    def handles(self) -> PasstHandles:
        """The descriptors that belong to the record."""
        return PasstHandles(self.transport_socket, self._keeper.pidfd)

    def save_kept(self) -> tuple[PasstBackendRecord, PasstFds]:
        return self.save(), PasstFds(self.stream_fds, self._keeper.pidfd)

    def take_up(self, record: PasstBackendRecord, handles: PasstFds) -> None:
        with TakeUp(handles) as taking:
            sock = self.take_up_stream(taking, record.transport, handles.stream)
            self.restore(record, PasstHandles(sock, handles.pidfd))

    def restore(
        self, record: PasstBackendRecord, handles: PasstHandles, arguments: list[str] | None = None
    ) -> None:
        """Go on in the place of the netdev that was saved; called instead of `start`. `arguments` are those of the
        next passt. Raises RecordError, and leaves the descriptors to the caller then."""
        with within("passt"):
            record.passt.check(handles.pidfd)
        with within("transport"):
            record.transport.check(handles.sock)
        self._said = record.logged
        self._keeper.restore(record.passt, handles.pidfd, arguments, age_us=self.age_us)
        self.restore_transport(record.transport, handles.sock, self._lost)

    # -- PasstUser ----------------------------------------------------------------------------------------------

    def passt_socket(self) -> PasstSocket:
        self._close_pair()
        self._pair = ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC
        )
        fd = theirs.fileno()
        return PasstSocket(["--fd", str(fd)], (fd,), partial(self._serves, ours, theirs))

    def _serves(self, ours: socket.socket, theirs: socket.socket) -> None:
        self._pair = None
        theirs.close()
        ours.setblocking(False)
        self._said = ""
        self.connect_frames(ours, self._lost)
        self.release_disconnected(self.far_end_text() or "")

    def far_end_text(self) -> str | None:
        if self._transport is None:
            return None
        pid = self._keeper.pid
        return "passt serves" if pid is None else f"passt serves as pid {pid}"

    def passt_awaited(self, text: str) -> None:
        self.moved()
        self.hold_disconnected(text)
        if self._keeper.state is not PasstState.NEW and text != self._said:
            log.warning("netdev %s: %s", self.name, text)
            self._said = text

    def passt_starts_again(self) -> None:
        self.context.restarts += 1

    def start_again(self, arguments: list[str], reason: str) -> None:
        """Restart passt with other arguments."""
        self.moved()
        self.close_transport()
        self._close_pair()
        self.hold_disconnected(reason)
        self._keeper.restart(arguments)

    def _lost(self, reason: str) -> None:
        self._transport = None
        self.moved()
        self._keeper.lost("passt ended" if reason == "peer closed the connection" else f"passt: {reason}")

    # -- Endpoint -----------------------------------------------------------------------------------------------

    def info_text(self, queue: int) -> str:
        """QEMU's texts."""
        keeper = self._keeper
        if keeper.state is not PasstState.SERVING:
            return "launching passt"
        return "stream,connected" if keeper.pid is None else f"stream,connected to pid {keeper.pid}"

    def _close_pair(self) -> None:
        if self._pair is not None:
            for sock in self._pair:
                sock.close()
            self._pair = None

    def cleanup(self) -> None:
        self._keeper.close()
        self._close_pair()
        self.close_transport()
        self.close_stream()


def passt_netdev(context: BackendContext, options: PasstOptions) -> Backend:
    """-netdev passt, in the mode that its options name."""
    if options.vhost_user:
        from vnic.backend.passt.vhost_user import PasstVhostUserBackend

        return PasstVhostUserBackend(context, options)
    return PasstBackend(context, passt_arguments(options))

"""passt: a user-mode network in another program, which vnic starts, watches and restarts (QEMU's net/passt.c).

The registry makes it for `-netdev passt` and `-netdev user`, with different arguments. passt uses one end of a socket
pair, with the framing of stream.
"""

from __future__ import annotations

import socket
from functools import partial

from vnic.backend.base import Backend, BackendContext, log
from vnic.backend.connection import FramedConnection
from vnic.backend.options import PasstOptions
from vnic.backend.passt.process import PasstKeeper, PasstSocket, PasstState, passt_arguments
from vnic.backend.transport import TransportBackend


class PasstBackend(TransportBackend):
    """A netdev whose far end is a passt that the netdev runs."""

    def __init__(self, context: BackendContext, arguments: list[str]) -> None:
        super().__init__(context)
        self._keeper = PasstKeeper(context.loop, arguments, self)
        self._pair: tuple[socket.socket, socket.socket] | None = None
        """Our end and passt's, while it starts."""
        self._said = ""

    def start(self) -> None:
        self._keeper.start()

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
        self._transport = FramedConnection(self.loop, ours, self.client, self._lost)
        pid = self._keeper.pid
        self.release_disconnected("passt serves" if pid is None else f"passt serves as pid {pid}")

    def passt_awaited(self, text: str) -> None:
        self.hold_disconnected(text)
        if self._keeper.state is not PasstState.NEW and text != self._said:
            log.warning("netdev %s: %s", self.name, text)
            self._said = text

    def passt_starts_again(self) -> None:
        self.context.restarts += 1

    def start_again(self, arguments: list[str], reason: str) -> None:
        """Restart passt with other arguments."""
        self.close_transport()
        self._close_pair()
        self.hold_disconnected(reason)
        self._keeper.restart(arguments)

    def _lost(self, reason: str) -> None:
        self._transport = None
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


def passt_netdev(context: BackendContext, options: PasstOptions) -> Backend:
    """-netdev passt, in the mode that its options name."""
    if options.vhost_user:
        from vnic.backend.passt.vhost_user import PasstVhostUserBackend

        return PasstVhostUserBackend(context, options)
    return PasstBackend(context, passt_arguments(options))

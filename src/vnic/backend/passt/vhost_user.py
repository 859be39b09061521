"""passt in its vhost-user mode: vnic starts a passt that processes the guest's rings itself (QEMU's net/passt.c).

`stream.passt_netdev` makes it. It is the vhost-user back-end over a private socket.
"""

from __future__ import annotations

import os
import socket

from vnic.backend.base import BackendContext, Chardev
from vnic.backend.options import PasstOptions, VhostUserOptions
from vnic.backend.passt.arguments import passt_arguments
from vnic.backend.passt.process import (
    PasstKeeper,
    PasstSocket,
    PasstState,
    private_folder,
)
from vnic.backend.vhost_user import VhostUserBackend
from vnic.chardev.options import ChardevOptions, SocketOptions
from vnic.net.errors import NetError
from vnic.sockets.address import UnixAddress
from vnic.sockets.listener import Listening

RECONNECT_MS = 50
"""The interval of the attempts to connect while a new passt starts."""


class _PasstChardev:
    """The chardev between the two; it is not in the machine's table."""

    def __init__(self, path: str) -> None:
        self.label = "passt"
        self.options: ChardevOptions = SocketOptions(
            id=self.label, addr=UnixAddress(path=path), reconnect_ms=RECONNECT_MS
        )
        self.connected = False
        self.listener: Listening | None = None
        self.passed: socket.socket | None = None

    def claim(self, user: str, *, listens: bool = True) -> None:
        """The netdev is its only user."""

    def set_connected(self, sock: socket.socket | None) -> None:
        self.connected = sock is not None

    def release(self) -> None:
        """The netdev is its only user."""


class _PasstContext(BackendContext):
    """The machine's context, with that chardev in it."""

    def __init__(self, context: BackendContext, path: str) -> None:
        super().__init__(context.loop, context.network)
        self._chardev = _PasstChardev(path)
        self.chardevs = self

    def remove(self, label: str) -> None:
        """It is deleted with its only user."""

    def find(self, label: str) -> Chardev:
        return self._chardev

    def emit(self, event: str, data: dict[str, object]) -> None:
        """QEMU's passt emits no events of the vhost-user kind."""


class PasstVhostUserBackend(VhostUserBackend):
    """A vhost-user netdev whose back-end is a passt that the netdev runs."""

    def __init__(self, context: BackendContext, options: PasstOptions) -> None:
        arguments = passt_arguments(options)
        folder = private_folder(arguments)
        if folder is None:
            raise NetError(
                "passt could not reach a socket of vnic's as the user that it becomes: leave --runas out"
            )
        self._folder = folder
        self._machine_context = context
        self._path = str(folder.path / "vhost-user.sock")
        super().__init__(
            _PasstContext(context, self._path),
            VhostUserOptions(id=options.id, link=options.link, chardev="passt"),
        )
        self._keeper = PasstKeeper(context.loop, [*arguments, "--one-off"], self)
        self._began = False

    def start(self) -> None:
        self._keeper.start()

    # -- PasstUser ----------------------------------------------------------------------------------------------

    def passt_socket(self) -> PasstSocket:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        return PasstSocket(["--socket", self._path], (), self._serves)

    def _serves(self) -> None:
        if not self._began:
            self._began = True
            super().start()

    def passt_awaited(self, text: str) -> None:
        self.hold_disconnected(text)

    def passt_starts_again(self) -> None:
        self._machine_context.restarts += 1

    def awaiting(self, text: str) -> None:
        """No connection: passt is starting, or the connection to it was lost."""
        if self._keeper.state is PasstState.SERVING and not text.startswith("connecting"):
            self._keeper.lost(text.partition(";")[0])

    # -- Endpoint -----------------------------------------------------------------------------------------------

    def info_text(self, queue: int) -> str:
        keeper = self._keeper
        if keeper.state is not PasstState.SERVING:
            return "launching passt"
        return "vhost-user,connected" if keeper.pid is None else f"vhost-user,connected to pid {keeper.pid}"

    def cleanup(self) -> None:
        super().cleanup()
        self._keeper.close()
        self._folder.remove()

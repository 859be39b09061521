"""passt in its vhost-user mode: vnic starts a passt that processes the guest's rings itself (QEMU's net/passt.c).

`stream.passt_netdev` makes it. It is the vhost-user back-end over a private socket.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from typing import NamedTuple

from vnic.backend.base import BackendContext, Chardev
from vnic.backend.options import PasstOptions, VhostUserOptions
from vnic.backend.passt.arguments import passt_arguments
from vnic.backend.passt.process import (
    PasstKeeper,
    PasstRecord,
    PasstSocket,
    PasstState,
    private_folder,
)
from vnic.backend.vhost_user import (
    BackendState,
    VhostUserBackend,
    VhostUserBackendRecord,
    VhostUserFds,
)
from vnic.chardev.options import ChardevOptions, SocketOptions
from vnic.chardev.socket import ChardevSocket
from vnic.net.errors import NetError
from vnic.record import Record, RecordError, require, within
from vnic.scratch import ScratchFolder
from vnic.sockets.address import UnixAddress
from vnic.sockets.listener import Listening
from vnic.sockets.take_up import TakeUp

RECONNECT_MS = 50
"""The interval of the attempts to connect while a new passt starts."""


class _PasstChardev:
    """The chardev between the two; it is not in the machine's table."""

    def __init__(self, path: str) -> None:
        self.label = "passt"
        self.options: ChardevOptions
        self.use_path(path)
        self.connected = False
        self.listener: Listening | None = None
        self.passed: socket.socket | None = None

    def use_path(self, path: str) -> None:
        self.options = SocketOptions(id=self.label, addr=UnixAddress(path=path), reconnect_ms=RECONNECT_MS)

    def claim(self, user: str, *, listens: bool = True) -> None:
        """The netdev is its only user."""

    def close_passed(self) -> None:
        """There is none."""

    def set_connected(self, sock: socket.socket | None) -> None:
        self.connected = sock is not None

    def release(self) -> None:
        """The netdev is its only user."""


class _PasstContext(BackendContext):
    """The machine's context, with that chardev in it."""

    def __init__(self, context: BackendContext, path: str) -> None:
        super().__init__(context.loop, context.network, items=context.items)
        self.chardev = _PasstChardev(path)
        self.chardevs = self

    def remove(self, label: str) -> None:
        """It is deleted with its only user."""

    def find(self, label: str) -> Chardev:
        return self.chardev

    def emit(self, event: str, data: dict[str, object]) -> None:
        """QEMU's passt emits no events of the vhost-user kind."""


class PasstVhostUserBackendRecord(VhostUserBackendRecord, frozen=True):
    """The state of a PasstVhostUserBackend apart from its descriptors."""

    passt: PasstRecord
    folder: str
    """That of its socket."""
    began: bool
    """passt has served, and a connection to it was tried."""

    def check_fields(self) -> None:
        super().check_fields()
        new = self.state is BackendState.NEW
        require(new is not self.began, "began", f"does not go with {self.state.value}")


class PasstVhostUserFds(NamedTuple):
    """The descriptors of a PasstVhostUserBackend."""

    vhost: VhostUserFds
    pidfd: int | None
    lock: int | None
    """That of the folder."""


class PasstVhostUserBackend(VhostUserBackend):
    """A vhost-user netdev whose back-end is a passt that the netdev runs."""

    kept_type = PasstVhostUserBackendRecord, PasstVhostUserFds

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
        self._passt_context = _PasstContext(context, self._path)
        super().__init__(
            self._passt_context,
            VhostUserOptions(id=options.id, link=options.link, chardev="passt"),
        )
        self._keeper = PasstKeeper(context.loop, [*arguments, "--one-off"], self)
        self._began = False

    def start(self) -> None:
        self._keeper.start()

    # -- state apart from handles -----------------------------------------------------------------------------------

    def save(self) -> PasstVhostUserBackendRecord:
        each = super().save()
        fields = {name: getattr(each, name) for name in each.__struct_fields__}
        return PasstVhostUserBackendRecord(
            **fields, passt=self._keeper.save(), folder=str(self._folder.path), began=self._began
        )

    def save_kept(self) -> tuple[Record, NamedTuple]:
        return self.save(), PasstVhostUserFds(self.fds, self._keeper.pidfd, self._folder.lock)

    def take_up(self, record: PasstVhostUserBackendRecord, handles: PasstVhostUserFds) -> None:
        before = self._folder
        with TakeUp(handles) as taking:
            with within("passt"):
                record.passt.check(handles.pidfd)
            self._use_folder(_folder_of(taking, record.folder, handles.lock))
            try:
                if record.began:
                    self.take_up_record(taking, record, handles.vhost)
            except RecordError:
                self._use_folder(before)
                if handles.pidfd is not None:  # it may still wait for a connection
                    with suppress(OSError):
                        signal.pidfd_send_signal(handles.pidfd, signal.SIGTERM)
                raise
        before.remove()
        self._began = record.began
        self._keeper.restore(record.passt, handles.pidfd, age_us=self.age_us)

    def _use_folder(self, folder: ScratchFolder) -> None:
        self._folder = folder
        self._path = str(folder.path / "vhost-user.sock")
        self._passt_context.chardev.use_path(self._path)
        self._socket = ChardevSocket(self.loop, self._passt_context.chardev, self)

    # -- PasstUser ----------------------------------------------------------------------------------------------

    def passt_socket(self) -> PasstSocket:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        return PasstSocket(["--socket", self._path], (), self._serves)

    def _serves(self) -> None:
        self.moved()
        if not self._began:
            self._began = True
            super().start()

    def passt_awaited(self, text: str) -> None:
        self.moved()
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


def _folder_of(taking: TakeUp, path: str, lock: int | None) -> ScratchFolder:
    """The folder of the process before, in which passt's socket is. Raises RecordError."""
    try:
        folder = ScratchFolder.taken_up(path, -1 if lock is None else lock)
    except (OSError, ValueError) as error:
        raise RecordError("folder", f"is {path!a}: {error}") from None
    taking.owned((lock,), folder.remove)
    return folder

"""A keeper in the test's process: stores descriptors by name, as systemd does, and passes them to the next StoredKeep.

    keeper = FakeKeeper()
    keep = keeper.start()  # and the units are made with it, and run
    keep = keeper.restart(keep)  # as after a SIGKILL: nothing of `keep` is stored any more

The units of the process before are simply not used any more; the test closes their descriptors at its end, if it minds.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from vnic.descriptors import close_fds
from vnic.open_files import same_file
from vnic.state.keep import StoredKeep
from vnic.state.notify import Notifier

MESSAGE_FDS = 253


class FakeKeeper:
    """The socket that NOTIFY_SOCKET names, and the store behind it; `read` takes what has arrived."""

    def __init__(self, address: str = "") -> None:
        """`address`: a path, or an abstract name of its own by default."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sock.setblocking(False)
        self._sock.bind(address)
        name = self._sock.getsockname()
        self.address = name if isinstance(name, str) else "@" + name[1:].decode()
        self.files: list[tuple[str, int]] = []
        self.messages: list[list[str]] = []
        """All that arrived, in lines."""
        self.client = Notifier(self.address)
        """For messages that wait until `read`."""

    def close(self) -> None:
        """Close all that is stored, and the socket."""
        self.client.close()
        self._sock.close()
        close_fds(fd for _, fd in self.files)
        self.files.clear()

    # -- as a Keep sees it --------------------------------------------------------------------------------------

    def store(self, name: str, fd: int) -> None:
        self.client.store(name, fd)
        self.read()

    def remove(self, name: str) -> None:
        self.client.remove(name)
        self.read()

    def barrier(self) -> int:
        pipe = self.client.barrier()
        self.read()
        return pipe

    # -- as the keeper does -------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.files]

    def read(self) -> None:
        """Take all messages that have arrived."""
        while True:
            try:
                data, fds, flags, _ = socket.recv_fds(self._sock, 4096, MESSAGE_FDS)
            except BlockingIOError:
                return
            assert not flags & socket.MSG_CTRUNC
            self._handle(data.decode().split("\n"), fds)

    def _handle(self, lines: list[str], fds: list[int]) -> None:
        """As systemd's service_notify_message."""
        self.messages.append(lines)
        name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "stored")
        assert name.isascii()
        assert name.isprintable()
        assert ":" not in name
        assert len(name) <= 255
        if "FDSTOREREMOVE=1" in lines:
            close_fds(fd for each, fd in self.files if each == name)
            self.files = [(each, fd) for each, fd in self.files if each != name]
        elif "FDSTORE=1" in lines:
            assert "FDPOLL=0" in lines
            for fd in fds:
                if any(same_file(fd, other) for _, other in self.files):
                    os.close(fd)  # it has a name already
                else:
                    self.files.append((name, fd))
        else:
            close_fds(fds)

    def passed(self) -> list[tuple[str, int]]:
        """What the next process gets: duplicates, which are its own."""
        self.read()
        return [(name, os.dup(fd)) for name, fd in self.files]

    def start(self, schedule: Callable[[Callable[[], None]], object] | None = None) -> StoredKeep:
        """The keep of a process that starts."""
        return StoredKeep(self, self.passed(), schedule)

    def restart(
        self, killed: StoredKeep, schedule: Callable[[Callable[[], None]], object] | None = None
    ) -> StoredKeep:
        """The keep of the process after one that was killed, whose units change nothing that is stored any more."""
        killed._active = False
        return self.start(schedule)

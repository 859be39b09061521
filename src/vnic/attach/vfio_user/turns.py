"""The connection of a VM while another program takes the kicks from it: this process and that one read it by turns.

`session.VfioUserSession` makes one; vnic-wire is the other program. QEMU sends each kick as a message, and vnic-wire
would hear of it only after this process. All other messages stay here: the other program gives us the turn at the first
of them, and gets it again when the VM has been silent for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Final

from vnic.descriptors import close_fds
from vnic.pci.irq import WANTED, LentSocket
from vnic.sockets.connection import Connection

LULL_S: Final = 0.01
"""The turn stays here for so long after the VM's last message: a driver accesses several registers in a row."""
UNREST_S: Final = 1.0
"""The same while a message is incomplete, or a reply cannot be sent."""


class Turns:
    """`vnic.pci.irq.MessageSocket` of one VM's connection."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: Connection, at_rest: Callable[[], bool]
    ) -> None:
        """`at_rest` tells whether the connection stands between two messages, and none is being carried out."""
        self._loop = loop
        self._connection = connection
        self._at_rest = at_rest
        self._fds: LentSocket | None = None
        """While it is lent."""
        self._lull: asyncio.TimerHandle | None = None
        """While it is lent and the turn is ours."""
        self._heard = 0.0

    @property
    def ours(self) -> bool:
        """Whether we read."""
        return self._fds is None or self._lull is not None

    def heard(self, now: float) -> None:
        """The VM has sent something, at this time of the loop."""
        self._heard = now

    def close(self) -> None:
        """The connection is about to be closed. The other program may have it for a while longer, so the VM is told."""
        if self._fds is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
            self._end(self._fds)

    # --- MessageSocket ---

    def lend(self) -> LentSocket | None:
        if self._fds is not None or self._connection.closed:
            return None
        eventfds: list[int] = []
        try:
            eventfds.extend(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        except OSError:
            close_fds(eventfds)
            return None
        self._fds = LentSocket(self._connection.sock.fileno(), *eventfds)
        self._loop.add_reader(self._fds.ours, self._given)
        self._wait(LULL_S)
        return self._fds

    def expect(self) -> None:
        if self._fds is not None and not self.ours:
            os.eventfd_write(self._fds.theirs, WANTED)

    def take_back(self) -> None:
        if self._fds is not None:
            paused = not self.ours
            self._end(self._fds)
            if paused:
                self._connection.resume()

    def _end(self, fds: LentSocket) -> None:
        self._fds = None
        if self._lull is not None:
            self._lull.cancel()
            self._lull = None
        self._loop.remove_reader(fds.ours)
        close_fds((fds.ours, fds.theirs))

    # --- Turns ---

    def _given(self) -> None:
        assert self._fds is not None
        try:
            os.eventfd_read(self._fds.ours)
        except BlockingIOError:
            return
        if not self.ours:
            self._wait(LULL_S)
            self._connection.resume()

    def _wait(self, seconds: float) -> None:
        self._lull = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Give the turn if the VM is silent."""
        assert self._fds is not None
        if self._loop.time() - self._heard < LULL_S:
            self._wait(LULL_S)
        elif not self._at_rest():
            self._wait(UNREST_S)
        else:
            self._lull = None
            self._connection.pause()
            os.eventfd_write(self._fds.theirs, 1)

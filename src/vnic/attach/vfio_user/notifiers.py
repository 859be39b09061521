"""One queue's notifications as eventfds, for a back-end that processes the guest's rings itself.

`irq.EventfdIrqs` makes one for each queue that is handed over. Over PCI a kick is a register write and an interrupt a
vector: the kick becomes a write to an eventfd here, and a signal on the call eventfd becomes the queue's interrupt.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from vnic.net.clock import Timer
from vnic.sockets import unblock


class Watcher(Protocol):
    """The part of asyncio's event loop that watches descriptors and has the time."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


class QueueNotifiers:
    """`vnic.pci.irq.Notifiers` of one queue."""

    def __init__(self, watcher: Watcher, called: Callable[[], None]) -> None:
        """Raises OSError if no descriptors are left."""
        self._watcher = watcher
        self._report = called
        self._blocks = False
        """The back-end made the kick descriptor block."""
        self.kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self.call_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:
            os.close(self.kick_fd)
            raise
        watcher.add_reader(self.call_fd, self._called)

    def kick(self) -> None:
        if self._blocks:
            return
        try:
            unblock.write(self.kick_fd, unblock.SIGNAL)
        except unblock.Blocked:
            self._blocks = True
        except OSError:
            pass  # full: the back-end has a kick pending already, or has filled the counter and harms only itself

    def close(self) -> None:
        """The back-end has returned the ring. An interrupt that it has signalled and that is still pending is
        delivered."""
        self._called()
        self._watcher.remove_reader(self.call_fd)
        os.close(self.call_fd)
        os.close(self.kick_fd)

    def _called(self) -> None:
        try:
            unblock.read(self.call_fd, 8)
        except OSError:
            return
        self._report()

"""A ring's notifications as eventfds, for a back-end that runs the guest's rings itself.

Over PCI a kick is a register write and an interrupt a vector: the kick is turned into an eventfd here. The call
eventfd is turned into the ring's interrupt, whatever that is at the time: MSI-X, INTx or nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from vnic.pci.irq import IrqLines
from vnic.sockets import unblock
from vnic.virtio.device import QueueFds


class QueueNotifiers:
    """The eventfds of one ring, from the first time it is handed over until the VM goes."""

    def __init__(self, irq: IrqLines, interrupt: Callable[[], None]) -> None:
        """OSError where there are no descriptors left."""
        self._irq = irq
        self._interrupt = interrupt
        self._deaf = False
        """The back-end made the kick descriptor block."""
        self._kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:
            os.close(self._kick)
            raise
        irq.watch(self._call, self._called)

    def fds(self, vector_fd: int | None) -> QueueFds:
        """What to hand over. `vector_fd`: the VM's own eventfd of the ring's vector, which needs no one between."""
        return QueueFds(self._kick, self._call if vector_fd is None else vector_fd)

    def kick(self) -> None:
        if self._deaf:
            return
        try:
            unblock.write(self._kick, unblock.SIGNAL)
        except unblock.Blocked:
            self._deaf = True
        except OSError:
            pass  # full: the back-end knows already, or has filled it up and harms only itself

    def close(self) -> None:
        """Back to us. An interrupt that was asked for and not yet seen goes out."""
        self._called()
        self._irq.unwatch(self._call)
        os.close(self._call)
        os.close(self._kick)

    def _called(self) -> None:
        try:
            unblock.read(self._call, 8)
        except OSError:
            return
        self._interrupt()

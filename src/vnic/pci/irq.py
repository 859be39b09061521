"""The interrupt lines of a PCI device as its model sees them; the attachment that serves it implements them.

A model never knows how an interrupt travels (an eventfd for vfio-user): it raises a level or sends a vector.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol


class Notifiers(Protocol):
    """The two eventfds of one queue that a program outside works on, until `close`."""

    kick_fd: int
    call_fd: int

    def kick(self) -> None:
        """Tell the program that the queue has something for it. Never waits."""

    def close(self) -> None:
        """The program is done. An interrupt that it asked for before is still reported."""


class IrqLines(Protocol):
    """What a device needs of the VM side to interrupt its guest. No call blocks and none raises."""

    def set_intx(self, level: bool) -> None:
        """Drive the INTx pin. Repeating a level is free; a masked line fires when it is unmasked."""

    def msi_notify(self, vector: int) -> bool:
        """Send MSI `vector`; True if it went out or is latched to go out, False if the guest cannot get it."""

    def msix_notify(self, vector: int) -> bool:
        """Send MSI-X `vector`; as `msi_notify`."""

    def msix_pending(self) -> int:
        """The latched vectors as a bit mask: what the pending bit array shows (PCI 3.0 §6.8.2.10)."""

    def msix_on(self) -> bool:
        """Whether the VM has eventfds for MSI-X vectors. A client of VFIO may turn MSI-X on by these alone (Linux VFIO
        keeps the capability's own enable bit from it)."""

    def msix_fd(self, vector: int) -> int | None:
        """The eventfd behind MSI-X `vector`, if it is one: valid until the lines change."""

    def notifiers(self, called: Callable[[], None]) -> Notifiers:
        """Make the eventfds through which a program outside works on one queue of the device. `called` runs whenever
        it asks for an interrupt. Raises OSError where there are no descriptors left."""


class NoIrq:
    """The lines of a device that no VM is plugged into."""

    def set_intx(self, level: bool) -> None:
        pass

    def msi_notify(self, vector: int) -> bool:
        return False

    def msix_notify(self, vector: int) -> bool:
        return False

    def msix_pending(self) -> int:
        return 0

    def msix_on(self) -> bool:
        return False

    def msix_fd(self, vector: int) -> int | None:
        return None

    def notifiers(self, called: Callable[[], None]) -> Notifiers:
        raise OSError(errno.ENODEV, "no VM is plugged in")

"""The interrupt lines of a PCI device as its model sees them; the attachment that serves it implements them.

A model sets a level or sends a vector; the attachment's mechanism (an eventfd for vfio-user) is hidden from it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol


class Notifiers(Protocol):
    """The two eventfds of one queue that another program processes, until `close`."""

    kick_fd: int
    call_fd: int

    def kick(self) -> None:
        """Kick the program. Never blocks."""

    def close(self) -> None:
        """The program has stopped. Interrupts that it requested before are still delivered."""


WANTED: Final = 1 << 32


class LentSocket(NamedTuple):
    """A VM's connection, which this process and another program read by turns, and the eventfds by which they give each
    other the turn. At first it is ours. The owner keeps all three."""

    socket: int
    ours: int
    """Written by the other program."""
    theirs: int
    """Written by us: 1 gives them the turn, `WANTED` asks for it."""


class MessageSocket(Protocol):
    """The connection on which a VM sends its register accesses as messages."""

    def lend(self) -> LentSocket | None:
        """Let another program read it, too. It takes only what it can do, whole messages from the front, and gives the
        turn back at anything else. None: not possible now."""

    def expect(self) -> None:
        """The VM is about to send something that is ours: ask for the turn, so that it need not wait for that."""

    def take_back(self) -> None:
        """The other program reads it no more; without effect if it is not lent."""


class IrqLines(Protocol):
    """The interrupts of a device. No call blocks or raises."""

    def set_intx(self, level: bool) -> None:
        """Set the INTx pin. A repeated level has no effect; a masked line fires when it is unmasked."""

    def msi_notify(self, vector: int) -> bool:
        """Send MSI `vector`. True: it was sent or latched; False: the guest cannot get it."""

    def msix_notify(self, vector: int) -> bool:
        """Send MSI-X `vector`; as `msi_notify`."""

    def msix_pending(self) -> int:
        """The latched vectors as a bit mask, for the pending bit array (PCI 3.0 §6.8.2.10)."""

    def msix_on(self) -> bool:
        """Whether the VM has eventfds for MSI-X vectors. A client of VFIO may enable MSI-X by these alone (Linux VFIO
        hides the capability's enable bit from it)."""

    def msix_fd(self, vector: int) -> int | None:
        """The eventfd of MSI-X `vector`, if it has one: valid until the lines change."""

    def notifiers(self, called: Callable[[], None]) -> Notifiers:
        """Make the eventfds for another program that processes one queue of the device. `called` runs whenever it
        requests an interrupt. Raises OSError if no descriptors are left."""

    def messages(self) -> MessageSocket | None:
        """Where the VM's register accesses come from; None: that cannot be lent."""


class NoIrq:
    """The lines of a device without a VM."""

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

    def messages(self) -> MessageSocket | None:
        return None

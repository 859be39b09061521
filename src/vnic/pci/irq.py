"""The interrupt lines of a PCI device as its model sees them; the attachment that serves it implements them.

A model never knows how an interrupt travels (an eventfd for vfio-user): it raises a level or sends a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


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

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fd` (an eventfd of the model's) is readable, until `unwatch`."""

    def unwatch(self, fd: int) -> None: ...


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

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        pass

    def unwatch(self, fd: int) -> None:
        pass

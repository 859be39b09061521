"""The interface of a NIC model for its receive and transmit units, beyond its registers.

Each unit takes a Protocol that derives from this, and never the model's class.
"""

from __future__ import annotations

from typing import Protocol

from vnic.memory.guest import GuestMemoryError
from vnic.pci.dma import Dma, RingFeed


class NicUnitHost(Protocol):
    """The model, as its units see it."""

    @property
    def rings(self) -> RingFeed: ...

    @property
    def dma(self) -> Dma:
        """Guest memory; it refuses everything while the guest has bus mastering off."""

    @property
    def bus_master(self) -> bool: ...

    def keep_record(self) -> None:
        """Save the device now."""

    def touched(self) -> None:
        """The record differs."""

    def complain(self, what: str, text: str, /) -> None:
        """Log each kind of error once per VM."""

    def bus_error(self, unit: str, error: GuestMemoryError, /) -> None:
        """The guest used an unmapped address."""

"""The interface of the device for its units: memory, registers, interrupts, logging.

Each unit takes a Protocol, defined here or in its module, and never the device's class.
"""

from __future__ import annotations

from typing import Protocol

from vnic.memory.guest import GuestMemoryError
from vnic.memory.shadow import Shadow
from vnic.nic.intel.statistics import Statistics
from vnic.pci.dma import Dma


class UnitHost(Protocol):
    """The device, as the receive and the transmit unit see it."""

    @property
    def values(self) -> dict[int, int]:
        """The plain registers, by offset."""

    @property
    def statistics(self) -> Statistics: ...

    @property
    def dma(self) -> Dma:
        """Guest memory; it refuses everything while the guest has bus mastering off."""

    @property
    def shadow(self) -> Shadow | None:
        """Set while the VM does not share its memory: what is written to it is on its way later."""

    def interrupt(self, causes: int) -> None:
        """Set interrupt causes when the unit's earlier writes to guest memory are complete."""

    def complain(self, what: str, text: str) -> None:
        """Log each kind of error once per VM."""

    def bus_error(self, unit: str, error: GuestMemoryError) -> None:
        """The guest used an unmapped address."""

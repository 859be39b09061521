"""What the units of an Intel NIC need of the device that they are part of: memory, registers, interrupts, one log line.

Each unit takes a Protocol, which stands here or beside it, and never the device's class.
"""

from __future__ import annotations

from typing import Protocol

from vnic.memory.guest import GuestMemoryError
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

    def interrupt(self, causes: int) -> None:
        """Set causes that tell of what the unit wrote to guest memory, when that is there."""

    def complain(self, what: str, text: str) -> None:
        """One log line for each kind of mistake of a VM's."""

    def bus_error(self, unit: str, error: GuestMemoryError) -> None:
        """The guest gave an address that leads nowhere."""

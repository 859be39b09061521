"""The interface of the device for its receive and transmit units."""

from __future__ import annotations

from typing import Protocol

from vnic.nic.causes import Causes
from vnic.nic.register_window import SizedRegisterFile
from vnic.nic.rtl8139.tally import Tally
from vnic.nic.unit import NicUnitHost


class UnitHost(NicUnitHost, Protocol):
    """The device, as its units see it."""

    @property
    def registers(self) -> SizedRegisterFile: ...

    @property
    def interrupts(self) -> Causes: ...

    @property
    def tally(self) -> Tally: ...

    @property
    def command(self) -> int:
        """CR."""

    @property
    def plus_command(self) -> int:
        """CPCR."""

    def interrupt(self, causes: int, /) -> None:
        """Set interrupt causes when the unit's earlier writes to guest memory are complete."""

    def flush(self) -> None:
        """Offer the frames that wait for the receiver once more."""

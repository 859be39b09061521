"""The interface of the device for its receive and transmit units."""

from __future__ import annotations

from typing import Final, Protocol

from vnic.nic.pcnet.link import LinkStatus
from vnic.nic.pcnet.registers import Registers
from vnic.nic.turns import FetchingUnitHost

FETCH: Final = 64
"""Descriptors that are fetched at once from a VM that does not share its memory, and the most that one frame takes: the
least buffer of a driver is 64 bytes."""


class UnitHost(FetchingUnitHost, Protocol):
    """The device, as its units see it."""

    @property
    def registers(self) -> Registers: ...

    @property
    def link(self) -> LinkStatus: ...

    def interrupt(self, causes: int) -> None:
        """Set bits of CSR0, when the unit's earlier writes to guest memory are complete."""

    def transmit(self, frame: bytes) -> bool:
        """Put a frame on the wire, or loop it back. False: it waits at the peer, and `Turns.resume` will be called."""

    def flush(self) -> None:
        """Offer the receiver the frames that wait."""

    def poll_later(self) -> None:
        """A frame waits for descriptors."""

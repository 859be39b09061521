"""The interface of the device for its receive and transmit processes."""

from __future__ import annotations

from typing import Protocol

from vnic.nic.tulip.link import Link
from vnic.nic.turns import FetchingUnitHost


class UnitHost(FetchingUnitHost, Protocol):
    """The device, as its units see it."""

    @property
    def csr(self) -> list[int]:
        """The registers by number; the list stays the same."""

    @property
    def link(self) -> Link: ...

    def interrupt(self, causes: int) -> None:
        """Set bits of CSR5, when the unit's earlier writes to guest memory are complete."""

    def transmit(self, frame: bytes) -> bool:
        """Put a frame on the wire, or loop it back. False: it waits at the peer, and `Turns.resume` will be called."""

    def flush(self) -> None:
        """Offer the receiver the frames that wait."""

    def suspend_rx(self) -> None:
        """A frame waits for descriptors."""

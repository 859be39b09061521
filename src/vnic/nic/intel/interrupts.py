"""Interrupt causes and their mask: ICR, ICS, IMS and IMC (SDM §13.4.17 to §13.4.21), and the level of the pin.

The device model and its units set causes here.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.nic.intel import cells as c
from vnic.record import U32, Record


class InterruptsRecord(Record, frozen=True):
    cause: U32
    mask: U32


class Interrupts:
    """The pin is asserted while an unmasked cause is pending.

    Moderation (ITR, RADV, TADV) is not done: its unit is 256 ns and the loop's timers tick in milliseconds. The level
    itself moderates: while it is asserted, further causes cost the guest nothing.
    """

    def __init__(self, drive: Callable[[int], None]) -> None:
        self.cells = c.plain()
        self._drive = drive

    @property
    def cause(self) -> int:
        return self.cells[c.CAUSE]

    @property
    def mask(self) -> int:
        return self.cells[c.MASK]

    def reset(self) -> None:
        self.cells[c.CAUSE] = self.cells[c.MASK] = 0
        self._drive(0)

    def save(self) -> InterruptsRecord:
        return InterruptsRecord(cause=self.cause, mask=self.mask)

    def restore(self, record: InterruptsRecord) -> None:
        """The pin's level is the device's to restore."""
        self.cells[c.CAUSE], self.cells[c.MASK] = record.cause, record.mask

    def tell_again(self) -> None:
        """The process before was killed: the guest may not have been told of what is pending."""
        self._drive(self.cause & self.mask)

    def set(self, causes: int) -> None:
        """Set causes: a write to ICS, or an interrupt of a unit."""
        self.cells[c.CAUSE] |= causes
        self._drive(self.cause & self.mask)

    def clear(self, causes: int) -> None:
        """A write to ICR: ones clear."""
        self.cells[c.CAUSE] &= ~causes
        self._drive(self.cause & self.mask)

    def read(self) -> int:
        """A read of ICR clears it."""
        cause = c.take(self.cells, c.CAUSE)
        self._drive(0)
        return cause

    def enable(self, causes: int) -> None:
        self.cells[c.MASK] |= causes
        self._drive(self.cause & self.mask)

    def disable(self, causes: int) -> None:
        self.cells[c.MASK] &= ~causes
        self._drive(self.cause & self.mask)

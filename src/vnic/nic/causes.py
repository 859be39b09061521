"""Interrupt causes and their mask, of chips whose driver clears causes by writing ones.

The model's units set causes here; the pin is asserted while an unmasked one is pending.
"""

from __future__ import annotations

from collections.abc import Callable

from vnic.record import U32, Record, require


class CausesRecord(Record, frozen=True):
    status: U32
    mask: U32


class Causes:
    """`bits` are those that the chip has; `drive` gets what is pending and not masked."""

    def __init__(self, bits: int, drive: Callable[[int], None]) -> None:
        self._bits = bits
        self._drive = drive
        self.status = self.mask = 0

    def reset(self) -> None:
        self.status = self.mask = 0
        self.drive()

    def post(self, causes: int) -> None:
        """Set causes without the pin: what the guest is to see is saved before the interrupt; `drive` follows."""
        self.status |= causes

    def set(self, causes: int) -> None:
        self.post(causes)
        self.drive()

    def drive(self) -> None:
        self._drive(self.status & self.mask)

    def write_status(self, value: int) -> None:
        self.status &= ~value
        self.drive()

    def write_mask(self, value: int) -> None:
        self.mask = value & self._bits
        self.drive()

    def save(self) -> CausesRecord:
        return CausesRecord(status=self.status, mask=self.mask)

    def check(self, record: CausesRecord) -> None:
        require(
            not (record.status | record.mask) & ~self._bits, "status", "or mask has a bit that the chip lacks"
        )

    def restore(self, record: CausesRecord) -> None:
        """`drive` follows."""
        self.status, self.mask = record.status, record.mask

"""The 25 interrupts of a vmxnet3: each is pending or not, and masked or not (QEMU: Vmxnet3IntState).

Queues and the event register name the interrupt that they use. With MSI-X it is a vector of its own; MSI and INTx have
only the first. A driver that asks for it (IntrConf.autoMask) has each interrupt masked when it is sent, and writes IMR
when it has done its work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from vnic.nic.vmxnet3 import regs as r
from vnic.pci.device import PciDevice
from vnic.record import Record

_ALL = (1 << r.MAX_INTERRUPTS) - 1
Bits = Annotated[int, msgspec.Meta(ge=0, le=_ALL)]


class InterruptsRecord(Record, frozen=True):
    pending: Bits
    masked: Bits
    auto_mask: bool


class Interrupts:
    """`sent` is called with the number of each interrupt that the guest gets."""

    def __init__(self, lines: PciDevice, sent: Callable[[int], None]) -> None:
        self._lines = lines
        self._sent = sent
        self.pending = 0
        self.masked = _ALL
        self.auto_mask = False

    def save(self) -> InterruptsRecord:
        return InterruptsRecord(pending=self.pending, masked=self.masked, auto_mask=self.auto_mask)

    def restore(self, record: InterruptsRecord) -> None:
        self.pending, self.masked, self.auto_mask = record.pending, record.masked, record.auto_mask

    def reset(self) -> None:
        self.pending, self.masked, self.auto_mask = 0, _ALL, False
        self._lines.set_intx(False)

    @property
    def asserts_pin(self) -> bool:
        """The level of INTx, if neither MSI-X nor MSI is enabled."""
        return bool(self.pending & ~self.masked & 1)

    def trigger(self, index: int) -> None:
        bit = 1 << index
        self.pending |= bit
        if self._deliver(index) and self.auto_mask and self._by_message:
            self.masked |= bit

    def set_mask(self, index: int, masked: bool) -> None:
        bit = 1 << index
        self.masked = self.masked | bit if masked else self.masked & ~bit
        self._deliver(index)

    def read_cause(self) -> int:
        """ICR: whether the pin is asserted, which this ends."""
        if self._by_message or not self.asserts_pin:
            return 0
        self.pending &= ~1
        if self.auto_mask:
            self.masked |= 1
        self._lines.set_intx(False)
        return 1

    @property
    def _by_message(self) -> bool:
        return self._lines.msix_enabled or self._lines.msi_enabled

    def _deliver(self, index: int) -> bool:
        """Send the interrupt if it is pending and not masked. False: it is not."""
        if not self._by_message:
            self._lines.set_intx(self.asserts_pin)
            sent = not index and self.asserts_pin
        else:
            sent = bool(self.pending & ~self.masked & 1 << index)
            if sent:
                self.pending &= ~(1 << index)
                self._lines.notify(index)
        if sent:
            self._sent(index)
        return sent

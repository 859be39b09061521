"""The 25 interrupts of a vmxnet3: each is pending or not, and masked or not (QEMU: Vmxnet3IntState).

Queues and events name the one that they use. With MSI-X it is a vector of its own; MSI and INTx have only the first. A
driver that asks for it (IntrConf.autoMask) has each masked when it is sent, and writes IMR when its work is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from vnic.nic.vmxnet3 import regs as r
from vnic.pci.device import PciDevice
from vnic.record import Record

_ALL = (1 << r.MAX_INTERRUPTS) - 1


class InterruptsRecord(Record, frozen=True):
    pending: Annotated[int, msgspec.Meta(ge=0, le=_ALL)]
    masked: Annotated[int, msgspec.Meta(ge=0, le=_ALL)]
    auto_mask: bool


class Interrupts:
    """`sent` is called with the number of each interrupt that the guest gets."""

    def __init__(self, lines: PciDevice, sent: Callable[[int], None]) -> None:
        self._lines = lines
        self._sent = sent
        self.reset()

    def save(self) -> InterruptsRecord:
        return InterruptsRecord(pending=self.pending, masked=self.masked, auto_mask=self.auto_mask)

    def restore(self, record: InterruptsRecord) -> None:
        self.pending, self.masked, self.auto_mask = record.pending, record.masked, record.auto_mask

    def reset(self) -> None:
        self.pending, self.masked, self.auto_mask = 0, _ALL, False
        self._lines.set_intx(False)

    def trigger(self, index: int) -> None:
        self.pending |= 1 << index
        self._deliver(index, mask=self.auto_mask)

    def set_mask(self, index: int, masked: bool) -> None:
        self.masked = self.masked & ~(1 << index) | masked << index
        self._deliver(index)

    def read_cause(self) -> int:
        """ICR: whether the pin is asserted, which this ends."""
        if self._lines.msix_enabled or self._lines.msi_enabled or not self.pending & ~self.masked & 1:
            return 0
        self.pending &= ~1
        self.masked |= self.auto_mask
        self._lines.set_intx(False)
        return 1

    def _deliver(self, index: int, *, mask: bool = False) -> None:
        """Send the interrupt if it is pending and not masked; `mask` it then, if it is a message."""
        bit = 1 << index
        due = self.pending & ~self.masked & bit
        if self._lines.msix_enabled or self._lines.msi_enabled:
            if due:
                self.pending &= ~bit
                self.masked |= bit * mask
                self._lines.notify(index)
        elif index:
            return
        else:
            self._lines.set_intx(bool(due))
        if due:
            self._sent(index)

"""The cells of one chip as a whole: its units go on in others, or in those that a killed process has left.

Each model makes one over its units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.interrupts import Interrupts
from vnic.nic.intel.rx import Receiver
from vnic.nic.intel.statistics import Statistics
from vnic.nic.intel.tx import Transmitter


class BusUnit(Protocol):
    """The bus of the EEPROM, which drivers clock bit by bit, thousands of times."""

    cells: memoryview

    def check(self, cells: memoryview) -> None:
        """Raise RecordError unless its cell has a state of the bus."""

    def take_up(self) -> None:
        """Go on as the cell says."""


class ChipCells:
    """The units that have cells."""

    def __init__(
        self,
        interrupts: Interrupts,
        statistics: Statistics,
        rx: Receiver,
        txs: Sequence[Transmitter],
        eeprom: BusUnit | None = None,
        causes: int = regs.ICR_RXT0 | regs.ICR_TXDW,
    ) -> None:
        """`causes` are those of frames. There are as many transmit units as queues of the receive unit."""
        self._eeprom = eeprom
        self._interrupts = interrupts
        self._statistics = statistics
        self._rx = rx
        self._txs = txs
        self._causes = causes
        self.values = c.plain(len(txs))
        self._use(self.values)

    def move(self, values: memoryview) -> None:
        """Go on in these cells."""
        values[:] = self.values
        self._use(values)

    def _use(self, values: memoryview) -> None:
        self.values = self._interrupts.cells = self._statistics.cells = values
        if self._eeprom is not None:
            self._eeprom.cells = values
        self._rx.use_cells(values)
        for tx in self._txs:
            tx.use_cells(values)

    def check(self, values: memoryview) -> None:
        """Raise RecordError for values that no chip has."""
        c.check(values, len(self._txs))
        if self._eeprom is not None:
            self._eeprom.check(values)

    def take_up(self, values: memoryview) -> None:
        """After `restore` of the units: the process before was killed, and its cells are newer than the records.

        Causes of which it may not have told are set again: the guest finds nothing to do, or what it would have
        missed. The caller tells it.
        """
        self._use(values)
        if self._eeprom is not None:
            self._eeprom.take_up()
        self._rx.take_up(values)
        for tx in self._txs:
            tx.take_up(values)
        if self._rx.enabled or self._txs[0].enabled:
            values[c.CAUSE] |= self._causes

    @property
    def access(self) -> memoryview:
        """The cell with the number of the guest's access."""
        return self.values[c.ACCESS : c.ACCESS + 1]

    def undo_read(self, access: int) -> None:
        """If the access of this number was a read that cleared a register, it did not happen."""
        values = self.values
        number, at = values[c.UNDO] >> c.UNDO_SHIFT, values[c.UNDO] & (1 << c.UNDO_SHIFT) - 1
        if number != access:
            return
        values[c.UNDO] = 0
        if at == c.CAUSE:
            self._interrupts.set(values[c.UNDO_VALUE] & 0xFFFFFFFF)
        elif at >= c.STATISTICS:
            self._statistics.put_back(at, values[c.UNDO_VALUE])

"""The state of a chip that packets and hot registers change, as cells in memory that outlives the process.

A cell is an aligned u64 that is written at once: no record has to be saved for a packet or an interrupt. The units
write each cell in an order that leaves no moment at which a kill would send a frame twice or lose a receive buffer
(`rings`, `rx`, `tx`). Without a keeper the cells are plain memory.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vnic.record import require

ACCESS: Final = 0
"""The number of the guest's access that is being carried out (`PciDevice.access`)."""
UNDO: Final = 1
"""The cell that a guest's read has cleared, and above UNDO_SHIFT the number of that access."""
UNDO_VALUE: Final = 2
CAUSE: Final = 3
MASK: Final = 4
RX: Final = 5
"""The first of a ring's cells, which `RingCells` names."""
TX: Final = 8
CONTEXTS: Final = 11
"""Both offload contexts, as two words each."""
EEPROM: Final = 15
"""The bus of the EEPROM, which the model packs."""
STATISTICS: Final = 16
STATISTICS_COUNT: Final = 64
COUNT: Final = STATISTICS + STATISTICS_COUNT

UNDO_SHIFT: Final = 16
HALF: Final = 1 << 32
"""Beside the head of a transmit ring: the record has what was collected of a frame up to that descriptor. Beside that
of a receive ring: not all descriptors before it are written back."""

_PER_QUEUE: Final = EEPROM - RX
_WORD: Final = (1 << 32) - 1
_MOST: Final = (1 << 64) - 1
_INDEX: Final = 0xFFFF


class QueueCells(NamedTuple):
    """The first cell of each part of a queue pair."""

    rx: int = RX
    tx: int = TX
    contexts: int = CONTEXTS


def queue(number: int) -> QueueCells:
    """The cells of queue pair `number`. Those of the first are before the statistics, all others behind them."""
    if not number:
        return QueueCells()
    first = COUNT + (number - 1) * _PER_QUEUE
    return QueueCells(first, first + TX - RX, first + CONTEXTS - RX)


def count(queues: int = 1) -> int:
    """The number of cells of a chip with so many queue pairs."""
    return COUNT + (queues - 1) * _PER_QUEUE


class RingCells(NamedTuple):
    """The cells of one ring, as offsets from its first one."""

    head: int = 0
    tail: int = 1
    written: int = 2
    """The first descriptor that may lack its Descriptor Done although the head is behind it."""


RING: Final = RingCells()


def plain(queues: int = 1) -> memoryview:
    """Cells of a chip without a keeper, as after its reset."""
    return memoryview(bytearray(8 * count(queues))).cast("Q")


def plain_ring(first: int) -> memoryview:
    """Cells that have those of a ring, until its unit gets all of its chip's."""
    return memoryview(bytearray(8 * (first + len(RING)))).cast("Q")


def take(cells: memoryview, at: int) -> int:
    """A guest's read that clears cell `at`."""
    cells[UNDO_VALUE] = value = cells[at]
    cells[UNDO] = cells[ACCESS] << UNDO_SHIFT & _MOST | at
    cells[at] = 0
    return value


def check(cells: memoryview, queues: int = 1) -> None:
    """Raise RecordError for values that no chip with so many queue pairs has."""
    wanted = count(queues)
    require(len(cells) == wanted, "cells", f"are {len(cells)}, not {wanted}")
    require(cells[UNDO] & _INDEX < COUNT, f"cells[{UNDO}]", "is no cell's number")
    for at in (CAUSE, MASK):
        require(cells[at] <= _WORD, f"cells[{at}]", "is more than 32 bits")
    for number in range(queues):
        rx, tx, _ = queue(number)
        for first in (rx, tx):
            for at in RING:
                most = _INDEX | (HALF if at == RING.head else 0)
                require(not cells[first + at] & ~most, f"cells[{first + at}]", "is no descriptor's number")

"""The state of a chip that packets and hot registers change, as cells in memory that outlives the process.

A cell is an aligned u64 that is written at once: no record has to be saved for a packet or an interrupt. The units
write each cell in an order that leaves no moment at which a kill would send a frame twice or lose a receive buffer
(`rings`, `rx`, `tx`). Without a keeper the cells are plain memory.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vnic.record import require

UNDO_AT: Final = 0
"""The number of the cell that the guest's read has just cleared, and one; 0: none."""
UNDO_VALUE: Final = 1
CAUSE: Final = 2
MASK: Final = 3
RX: Final = 4
"""The first of a ring's cells, which `RingCells` names."""
TX: Final = 7
CONTEXTS: Final = 10
"""Both offload contexts, as two words each."""
STATISTICS: Final = 14
STATISTICS_COUNT: Final = 64
COUNT: Final = STATISTICS + STATISTICS_COUNT

HALF: Final = 1 << 32
"""Beside the head of a transmit ring: the record has what was collected of a frame up to that descriptor."""

_WORD: Final = (1 << 32) - 1
_INDEX: Final = 0xFFFF


class RingCells(NamedTuple):
    """The cells of one ring, as offsets from its first one."""

    head: int = 0
    tail: int = 1
    written: int = 2
    """The first descriptor that may lack its Descriptor Done although the head is behind it."""


RING: Final = RingCells()


def plain() -> memoryview:
    """Cells of a chip without a keeper, as after its reset."""
    return memoryview(bytearray(8 * COUNT)).cast("Q")


def check(cells: memoryview) -> None:
    """Raise RecordError for values that no chip has."""
    require(len(cells) == COUNT, "cells", f"are {len(cells)}, not {COUNT}")
    require(cells[UNDO_AT] <= COUNT, f"cells[{UNDO_AT}]", "is no cell's number")
    for at in (CAUSE, MASK):
        require(cells[at] <= _WORD, f"cells[{at}]", "is more than 32 bits")
    for first in (RX, TX):
        for at in RING:
            most = _INDEX | HALF if (first, at) == (TX, RING.head) else _INDEX
            fits = not cells[first + at] & ~most
            require(fits, f"cells[{first + at}]", "is no descriptor's number")

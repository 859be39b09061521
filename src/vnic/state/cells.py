"""The part of a RecordStore's file with cells: numbers of 64 bits that their owner writes directly.

Cells lie in blocks at the end of the file that are never moved, because views of them are in use. The store's log says
which are whose.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

LINE_BYTES: Final = 64
"""Cells of one key begin at such a border: those of two keys never share a cache line."""
BLOCK_BYTES: Final = 1 << 16
CELLS_MAX: Final = BLOCK_BYTES // 8
"""For one key."""


class CellSpace:
    """Finds room for cells."""

    def __init__(self, fd: int, in_use: dict[int, int]) -> None:
        """`in_use`: first byte in the file → number of cells."""
        self._fd = fd
        self._blocks: dict[int, memoryview] = {}
        self._free: dict[int, list[int]] = {}
        """By size in bytes: the places of that size that are free."""
        self._rest = (0, 0)
        """What is left of the newest block."""
        used = {line for at, count in in_use.items() for line in range(at, at + _lines(count), LINE_BYTES)}
        for block in {at - at % BLOCK_BYTES for at in in_use}:
            self._map(block)
            lines = range(block, block + BLOCK_BYTES, LINE_BYTES)
            self._free.setdefault(LINE_BYTES, []).extend(line for line in lines if line not in used)

    @staticmethod
    def fits(at: int, count: int, file_bytes: int) -> bool:
        """Whether these may be cells in a file of this size."""
        within_block = at % BLOCK_BYTES + 8 * count <= BLOCK_BYTES
        whole_block = at - at % BLOCK_BYTES + BLOCK_BYTES <= file_bytes
        return count > 0 and at >= BLOCK_BYTES and at % LINE_BYTES == 0 and within_block and whole_block

    def take(self, count: int) -> int:
        """The first byte of room for `count` cells; raises OSError, ValueError for a count that is out of bounds."""
        if not 0 < count <= CELLS_MAX:
            raise ValueError(f"{count} cells for one key")
        size = _lines(count)
        if places := self._free.get(size):
            return places.pop()
        at, end = self._rest
        if end - at < size:
            at = self._new_block()
            end = at + BLOCK_BYTES
        self._rest = (at + size, end)
        return at

    def free(self, at: int, count: int) -> None:
        """The cells are no longer in use."""
        self._free.setdefault(_lines(count), []).append(at)

    def view(self, at: int, count: int) -> memoryview:
        """The cells as numbers."""
        block = at - at % BLOCK_BYTES
        memory = self._blocks.get(block)
        if memory is None:
            memory = self._map(block)
        return memory[at - block : at - block + 8 * count].cast("Q")

    def _new_block(self) -> int:
        end = os.fstat(self._fd).st_size
        at = end + -end % BLOCK_BYTES
        os.ftruncate(self._fd, at + BLOCK_BYTES)
        self._map(at)
        return at

    def _map(self, block: int) -> memoryview:
        if block not in self._blocks:
            self._blocks[block] = memoryview(mmap.mmap(self._fd, BLOCK_BYTES, offset=block))
        return self._blocks[block]


def _lines(count: int) -> int:
    return -(-8 * count // LINE_BYTES) * LINE_BYTES

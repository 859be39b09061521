"""The statistics registers (SDM §13.7): 32 bits that stop at their maximum, 64-bit pairs, all cleared by a read.

The receive and transmit units count frames here.
"""

from __future__ import annotations

from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.record import U16, U64, Record, require

_MAX32 = 0xFFFFFFFF
_MAX64 = (1 << 64) - 1
_FCS_BYTES = 4
_PAIRS = {regs.GORCH: regs.GORCL, regs.GOTCH: regs.GOTCL, regs.TORH: regs.TORL, regs.TOTH: regs.TOTL}
_LOW_HALVES = frozenset(_PAIRS.values())
_FIRST = 0x4000
_COUNTERS = frozenset(range(_FIRST, _FIRST + 4 * c.STATISTICS_COUNT, 4)) - frozenset(_PAIRS)
_ZEROS = memoryview(bytes(8 * c.STATISTICS_COUNT)).cast("Q")


def _cell(offset: int) -> int:
    """Where the counter of a register is; a pair is in that of its low half."""
    return c.STATISTICS + (offset - _FIRST >> 2)


class CountRecord(Record, frozen=True):
    """A counter that is not 0, by its register's offset; a pair's by that of its low half."""

    offset: U16
    count: U64


class StatisticsRecord(Record, frozen=True):
    counts: list[CountRecord]

    def check_fields(self) -> None:
        offsets: set[int] = set()
        for at, each in enumerate(self.counts):
            require(each.offset not in offsets, f"counts[{at}].offset", f"is {each.offset:#x} again")
            known = each.offset in _COUNTERS
            require(known, f"counts[{at}].offset", f"is {each.offset:#x}, which is no counter")
            most = _MAX64 if each.offset in _LOW_HALVES else _MAX32
            require(each.count <= most, f"counts[{at}].count", f"is {each.count}, above {most}")
            offsets.add(each.offset)


class Statistics:
    """What was counted, by the register's offset. `size` arguments are frames without their FCS; the chip counts it."""

    def __init__(self) -> None:
        self.cells = c.plain()

    def reset(self) -> None:
        self.cells[c.STATISTICS : c.COUNT] = _ZEROS

    def save(self) -> StatisticsRecord:
        counts = enumerate(self.cells[c.STATISTICS : c.COUNT])
        return StatisticsRecord(
            counts=[CountRecord(offset=_FIRST + 4 * at, count=count) for at, count in counts if count]
        )

    def restore(self, record: StatisticsRecord) -> None:
        self.reset()
        for each in record.counts:
            self.cells[_cell(each.offset)] = each.count

    def read(self, offset: int) -> int:
        """A guest's read clears the register; of a pair, the high half clears both, the low one none."""
        if offset in _LOW_HALVES:
            return self.cells[_cell(offset)] & _MAX32
        if offset in _PAIRS:
            return c.take(self.cells, _cell(_PAIRS[offset])) >> 32
        return c.take(self.cells, _cell(offset))

    def put_back(self, cell: int, count: int) -> None:
        """A guest's read that has cleared this cell, or was about to, did not happen."""
        self.cells[cell] = count if _FIRST + 4 * (cell - c.STATISTICS) in _LOW_HALVES else count & _MAX32

    def add(self, offset: int, count: int = 1) -> None:
        at = c.STATISTICS + (offset - _FIRST >> 2)
        self.cells[at] = min(self.cells[at] + count, _MAX32)

    def _add64(self, offset: int, count: int) -> None:
        at = c.STATISTICS + (offset - _FIRST >> 2)
        self.cells[at] = min(self.cells[at] + count, _MAX64)

    def received(self, size: int, destination: bytes) -> None:
        """One frame was stored."""
        total = size + _FCS_BYTES
        self.add(regs.GPRC)
        self.add(regs.TPR)
        self._add64(regs.GORCL, total)
        self._add64(regs.TORL, total)
        self.add(_size_class(regs.PRC64, total))
        if destination[0] & 1:
            self.add(regs.BPRC if destination == b"\xff" * 6 else regs.MPRC)

    def transmitted(self, sizes: list[tuple[int, int]], destination: bytes) -> None:
        """Frames of one destination were sent: (size, how many)."""
        for size, count in sizes:
            if not count:
                continue
            total = size + _FCS_BYTES
            self.add(regs.GPTC, count)
            self.add(regs.TPT, count)
            self._add64(regs.GOTCL, total * count)
            self._add64(regs.TOTL, total * count)
            self.add(_size_class(regs.PTC64, total), count)
            if destination[0] & 1:
                self.add(regs.BPTC if destination == b"\xff" * 6 else regs.MPTC, count)


def _size_class(first: int, total: int) -> int:
    """PRC64 to PRC1522, or PTC64 to PTC1522: 64 bytes, and up to 127, 255, 511, 1023 and beyond."""
    if total <= 64:
        return first
    return first + 4 * min((total.bit_length() - 6), 5)

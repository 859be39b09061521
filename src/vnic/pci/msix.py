"""A device's MSI-X table and pending bits, in the windows and at the offsets that its model chooses.

`PciDevice` serves them for its model. The table is storage only: the client that delivers the vectors (QEMU, for
vfio-user) applies their masks and keeps its own table, so that this one may never be written.
"""

from __future__ import annotations

from vnic.pci.bar import Bar
from vnic.pci.capability import MSIX_ENTRY_SIZE, Capability, msix
from vnic.record import Record, require

_PAGE = 4096
_VECTOR_MASKED = 1
_PBA_ALIGN = 8


class MsixTableRecord(Record, frozen=True):
    """The table. The interrupt lines keep the pending vectors."""

    table: bytes


class MsixTable:
    """`vectors` entries at `table_offset` of BAR `table_bar`, their pending bits at `pba_offset` of BAR `pba_bar`.

    The model lists the windows and serves the rest of them. A table made by `exclusive` has a separate window, whose
    other bytes read as zero.
    """

    def __init__(
        self,
        vectors: int,
        *,
        table_bar: int,
        table_offset: int,
        pba_bar: int,
        pba_offset: int,
        at: int | None = None,
    ) -> None:
        """`at` is the place of the capability, if it has one."""
        self.vectors = vectors
        self._capability = msix(vectors, table_bar, table_offset, pba_bar, pba_offset, at)
        self._table = bytearray(vectors * MSIX_ENTRY_SIZE)
        self._pba_bytes = -(-vectors // 64) * _PBA_ALIGN  # in quadwords (PCI 3.0 §6.8.2)
        self._table_at = (table_bar, table_offset)
        self._pba_at = (pba_bar, pba_offset)
        self.bars = frozenset((table_bar, pba_bar))
        self.window: Bar | None = None
        """The separate window of a table made by `exclusive`."""
        self.reset()

    @classmethod
    def exclusive(cls, vectors: int, bar_index: int) -> MsixTable:
        """A table with its window: a page or more, pending bits in the upper half, as QEMU's
        msix_init_exclusive_bar lays them out."""
        half = _PAGE // 2
        while half < vectors * MSIX_ENTRY_SIZE:
            half *= 2
        table = cls(vectors, table_bar=bar_index, table_offset=0, pba_bar=bar_index, pba_offset=half)
        table.window = Bar(bar_index, 2 * half)
        return table

    def capability(self) -> Capability:
        return self._capability

    def check_bars(self, bars: dict[int, Bar]) -> None:
        """Raise ValueError unless both parts are inside windows of the device."""
        for (bar, offset), size in ((self._table_at, len(self._table)), (self._pba_at, self._pba_bytes)):
            if bar not in bars or offset + size > bars[bar].size:
                raise ValueError(f"BAR {bar} has no room for MSI-X at {offset:#x}")

    def reset(self) -> None:
        """All vectors masked (PCI 3.0 §6.8.2.9)."""
        self._table[:] = (bytes(12) + _VECTOR_MASKED.to_bytes(4, "little")) * self.vectors

    def save(self) -> MsixTableRecord:
        return MsixTableRecord(table=bytes(self._table))

    def check(self, record: MsixTableRecord) -> None:
        size = len(record.table)
        require(size == len(self._table), "table", f"has {size} bytes, not {len(self._table)}")

    def restore(self, record: MsixTableRecord) -> None:
        self.check(record)
        self._table[:] = record.table

    def read(self, region: int, offset: int, length: int, pending: int) -> bytes | None:
        """A guest's read of one of `bars`; None if it begins in neither part and the model serves the window.

        `pending` is the bit mask of the latched vectors. Bytes beyond a part read as zero.
        """
        at = self._inside(region, offset, self._table_at, len(self._table))
        if at is not None:
            return bytes(self._table[at : at + length]).ljust(length, b"\0")
        at = self._inside(region, offset, self._pba_at, self._pba_bytes)
        if at is not None:
            return pending.to_bytes(self._pba_bytes, "little")[at : at + length].ljust(length, b"\0")
        return None if self.window is None else bytes(length)

    def write(self, region: int, offset: int, data: bytes) -> bool:
        """A guest's write; only the table stores it. False if the model serves it, as in `read`."""
        at = self._inside(region, offset, self._table_at, len(self._table))
        if at is not None:
            end = min(at + len(data), len(self._table))
            self._table[at:end] = data[: end - at]
            return True
        pba = self._inside(region, offset, self._pba_at, self._pba_bytes)
        return self.window is not None or pba is not None

    @staticmethod
    def _inside(region: int, offset: int, part: tuple[int, int], size: int) -> int | None:
        """The offset inside a part at which an access begins."""
        bar, start = part
        return offset - start if region == bar and start <= offset < start + size else None

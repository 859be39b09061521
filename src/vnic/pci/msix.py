"""The BAR that holds a device's MSI-X table and pending bits. `PciDevice` serves it for its model.

The table is storage only: who delivers the vectors (QEMU, for vfio-user) also applies their masks, and keeps
a table of its own, so that ours may never be written at all.
"""

from __future__ import annotations

from vnic.pci.bar import Bar
from vnic.pci.capability import MSIX_ENTRY_SIZE, Capability, msix

_PAGE = 4096
_VECTOR_MASKED = 1


class MsixWindow:
    """Table at 0, pending bits in the upper half of a window of a page or more, as QEMU lays them out."""

    def __init__(self, vectors: int, bar_index: int) -> None:
        self.vectors = vectors
        table_size = vectors * MSIX_ENTRY_SIZE
        half = _PAGE // 2
        while half < table_size:
            half *= 2
        self.pba_offset = half
        self.bar = Bar(bar_index, 2 * half)
        self._table = bytearray(table_size)
        self.reset()

    def capability(self) -> Capability:
        return msix(self.vectors, self.bar.index, 0, self.pba_offset)

    def reset(self) -> None:
        """All vectors masked (PCI 3.0 §6.8.2.9)."""
        self._table[:] = (bytes(12) + _VECTOR_MASKED.to_bytes(4, "little")) * self.vectors

    def read(self, offset: int, length: int, pending: int) -> bytes:
        """A guest's read; `pending` is the bit mask of the latched vectors. Gaps read as zero."""
        if offset < self.pba_offset:
            return bytes(self._table[offset : offset + length]).ljust(length, b"\0")
        size = self.bar.size - self.pba_offset
        at = offset - self.pba_offset
        return pending.to_bytes(size, "little")[at : at + length]

    def write(self, offset: int, data: bytes) -> None:
        """A guest's write: only the table takes it."""
        end = min(offset + len(data), len(self._table))
        if offset < end:
            self._table[offset:end] = data[: end - offset]

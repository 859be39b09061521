"""The unit of the e1000. What each packet changes is not in its record, but in cells."""

from __future__ import annotations

from vnic.keep import NO_HANDLES, Keep, Kept, NoHandles
from vnic.machine.model import RingsBack
from vnic.memory.guest import NO_MEMORY
from vnic.nic.intel.e1000 import E1000
from vnic.nic.intel.e1000.record import E1000Record
from vnic.pci.device import KeptCells, PciHandles
from vnic.pci.irq import NoIrq


class E1000Model:
    """An e1000."""

    record = E1000Record

    def __init__(self, device: E1000) -> None:
        self._device = device

    def save_kept(self) -> tuple[E1000Record, NoHandles]:
        return self._device.save(), NO_HANDLES

    def keep_as(self, kept: Kept) -> None:
        self._device.kept = kept

    def _cells(self, keep: Keep, key: str) -> KeptCells:
        return KeptCells(keep.cells(key, self._device.cells_wanted), keep.commit)

    def begin(self, keep: Keep, key: str) -> None:
        if keep.active:
            self._device.use_cells(self._cells(keep, key))

    def restore(
        self, record: E1000Record, handles: PciHandles | None, keep: Keep, key: str, rings_back: RingsBack
    ) -> None:
        there = handles or PciHandles(NoIrq(), NO_MEMORY)
        self._device.restore(record, there._replace(cells=self._cells(keep, key)))

"""The unit of a PCI NIC other than virtio-net. What each packet changes may be in cells instead of its record."""

from __future__ import annotations

from vnic.keep import NO_HANDLES, Keep, Kept, NoHandles
from vnic.machine.model import RingsBack
from vnic.memory.guest import NO_MEMORY
from vnic.nic.pci_nic import PciNic
from vnic.pci.device import PciHandles
from vnic.pci.irq import NoIrq
from vnic.record import Record


class PciNicModel:
    """A device model with one record."""

    def __init__(self, device: PciNic) -> None:
        self.record = device.record
        self._device = device

    def save_kept(self) -> tuple[Record, NoHandles]:
        return self._device.save_kept(), NO_HANDLES

    def keep_as(self, kept: Kept) -> None:
        self._device.kept = kept

    def begin(self, keep: Keep, key: str) -> None:
        if keep.active and self._device.cells_wanted:
            self._device.use_cells(keep.cells(key, self._device.cells_wanted))

    def restore(
        self, record: Record, handles: PciHandles | None, keep: Keep, key: str, rings_back: RingsBack
    ) -> None:
        there = handles or PciHandles(NoIrq(), NO_MEMORY)
        wanted = self._device.cells_wanted
        self._device.restore(record, there._replace(cells=keep.cells(key, wanted) if wanted else None))

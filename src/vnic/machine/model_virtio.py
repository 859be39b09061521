"""The units of virtio-net, over vhost-user and on PCI."""

from __future__ import annotations

from vnic.keep import NO_HANDLES, Keep, Kept, NoHandles
from vnic.machine.model import RingsBack
from vnic.memory.guest import NO_MEMORY
from vnic.nic.virtio_net import VirtioNet
from vnic.nic.virtio_net.device_record import VirtioNetRecord
from vnic.pci.device import PciHandles
from vnic.pci.irq import NoIrq
from vnic.record import Record, within
from vnic.virtio.attachment import VirtioHandles
from vnic.virtio.pci.record import VirtioPciRecord
from vnic.virtio.pci.transport import VirtioPci


class VirtioModel:
    """virtio-net over vhost-user."""

    record = VirtioNetRecord

    def __init__(self, device: VirtioNet) -> None:
        self._device = device

    def save_kept(self) -> tuple[VirtioNetRecord, NoHandles]:
        return self._device.save(), NO_HANDLES

    def keep_as(self, kept: Kept) -> None:
        self._device.kept = kept

    def begin(self, keep: Keep, key: str) -> None:
        """All of it is in its record."""

    def restore(
        self,
        record: VirtioNetRecord,
        handles: VirtioHandles | None,
        keep: Keep,
        key: str,
        rings_back: RingsBack,
    ) -> None:
        there = handles or VirtioHandles()
        rings_back(there)
        self._device.restore(record, there)


class VirtioPciNicRecord(Record, frozen=True):
    """The state of a virtio-net on PCI."""

    transport: VirtioPciRecord
    device: VirtioNetRecord


class VirtioPciModel:
    """virtio-net over vfio-user."""

    record = VirtioPciNicRecord

    def __init__(self, pci: VirtioPci, device: VirtioNet) -> None:
        self._pci = pci
        self._device = device

    def save_kept(self) -> tuple[VirtioPciNicRecord, NoHandles]:
        return VirtioPciNicRecord(transport=self._pci.save(), device=self._device.save()), NO_HANDLES

    def keep_as(self, kept: Kept) -> None:
        self._pci.kept = self._device.kept = kept

    def begin(self, keep: Keep, key: str) -> None:
        """All of it is in its record."""

    def restore(
        self,
        record: VirtioPciNicRecord,
        handles: PciHandles | None,
        keep: Keep,
        key: str,
        rings_back: RingsBack,
    ) -> None:
        with within("transport"):
            self._pci.restore(record.transport, handles or PciHandles(NoIrq(), NO_MEMORY))
        there = VirtioHandles() if handles is None else VirtioHandles(self._pci, handles.memory)
        rings_back(there)
        with within("device"):
            self._device.restore(record.device, there)

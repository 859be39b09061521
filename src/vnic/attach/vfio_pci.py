"""What a vfio-user client sees of a PCI device: its regions, its interrupts, and the way into the VM's memory.

It stands between the protocol (`protocol.vfio_user.server.Device`) and the model (`pci.device.PciDevice`) for the
time that one VM is plugged in; the socket shell makes one for every connection.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence

from vnic.attach.vfio_irq import EventfdIrqs, Watcher
from vnic.pci.capability import CAP_MSI, MSI_CONTROL
from vnic.pci.config import CONFIG_SIZE, INTERRUPT_PIN
from vnic.pci.device import PciDevice
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import DmaMap, IrqInfo, Refused, RegionInfo, SetIrqs
from vnic.virtio.memory import ADDRESS_LIMIT, GuestMemory, GuestMemoryError, MappedRegion, Region

log = logging.getLogger(__name__)

_RAM_BYTES = 1 << 20
"""A map of at least this size is RAM; before the guest runs, nothing else of a VM is as large."""
_READ_WRITE = m.REGION_FLAG_READ | m.REGION_FLAG_WRITE


class VfioPciPort:
    """One VM on one device, from `plug` (the constructor) to `close`."""

    def __init__(self, device: PciDevice, watcher: Watcher, name: str) -> None:
        self.memory = GuestMemory()
        self._device = device
        self._name = name
        regions = [RegionInfo()] * m.REGION_COUNT
        for index, bar in device.bars.items():
            regions[index] = RegionInfo(bar.size, _READ_WRITE)
        regions[m.REGION_CONFIG] = RegionInfo(CONFIG_SIZE, _READ_WRITE)
        self.regions: Sequence[RegionInfo] = regions
        msi = device.config.find(CAP_MSI)
        self._irqs = EventfdIrqs(
            watcher,
            intx=device.config.data[INTERRUPT_PIN] != 0,
            msi=1 << (device.config.data[msi + MSI_CONTROL] >> 1 & 7) if msi else 0,
            msix=device.msix.vectors if device.msix else 0,
        )
        self.irqs: Sequence[IrqInfo] = self._irqs.infos
        device.plug(self._irqs, self.memory)

    def close(self, done: Callable[[], None]) -> None:
        """The VM is gone: the device goes back to power-on. `done` is called, now or later, when nothing of the VM
        is held any more; only then may the next one be plugged in."""

        def unplugged() -> None:
            self._irqs.close()
            self.memory.close()
            done()

        self._device.unplug(unplugged)

    # --- protocol.vfio_user.server.Device ---

    def opened(self) -> None:
        """Refuse a VM that shares no memory, so that QEMU stops with an error instead of a NIC that never works.

        DMA_READ and DMA_WRITE messages could reach such memory, but rings are polled and their order matters:
        each packet would cost several round trips through a VM that may not answer. A VM that has no memory at
        all yet (behind an IOMMU) may come.
        """
        regions = self.memory.regions
        if all(region.size < _RAM_BYTES for region in regions) or any(region.mapping for region in regions):
            return
        log.warning(
            "%s: the VM is refused, it does not share its memory; give QEMU -object"
            " memory-backend-memfd,id=mem,size=SIZE,share=on and -machine …,memory-backend=mem",
            self._name,
        )
        raise Refused(errno.EOPNOTSUPP, "memory is not shared")

    def dma_map(self, request: DmaMap, fd: int | None) -> None:
        try:
            if fd is None:
                region = Region(request.address, request.size)
            else:
                region = MappedRegion(
                    request.address, request.size, fd, request.offset, writable=request.writable
                )
            self.memory.add(region)
        except GuestMemoryError as error:
            log.warning("%s: the VM's memory map is refused: %s", self._name, error)
            raise Refused(errno.EINVAL, str(error)) from None
        self._device.dma_mapped(request.address, request.size)

    def dma_unmap(self, address: int, size: int) -> None:
        self._device.dma_unmapped(address, size)
        if not self.memory.remove_within(address, size):
            raise Refused(errno.ENOENT, f"nothing is mapped in {address:#x}+{size:#x}")

    def dma_unmap_all(self) -> None:
        self._device.dma_unmapped(0, ADDRESS_LIMIT)
        self.memory.close()

    def region_read(self, index: int, offset: int, count: int) -> bytes:
        if index == m.REGION_CONFIG:
            return self._device.config_read(offset, count)
        return self._device.window_read(index, offset, count)

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        if index == m.REGION_CONFIG:
            self._device.config_write(offset, data)
        else:
            self._device.window_write(index, offset, data)

    def set_irqs(self, request: SetIrqs, fds: list[int]) -> None:
        self._irqs.set(request, fds)
        self._device.irqs_changed()

    def reset(self) -> None:
        self._device.reset()

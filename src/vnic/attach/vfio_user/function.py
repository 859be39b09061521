"""A PCI device as a vfio-user client sees it: its regions, its interrupts, and its access to the VM's memory.

Each session makes one. It connects the protocol (`protocol.vfio_user.server.Device`) and the model
(`pci.device.PciDevice`) while one VM is attached.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence

from vnic.attach.vfio_user.irq import EventfdIrqs
from vnic.attach.vfio_user.irq_record import EventfdIrqsRecord
from vnic.attach.vfio_user.notifiers import Watcher
from vnic.attach.vfio_user.shadow import MessageShadow
from vnic.memory.guest import (
    ADDRESS_LIMIT,
    GuestMemory,
    GuestMemoryError,
    MappedRegion,
    Region,
)
from vnic.memory.map_record import MemoryMapRecord, restore_map, save_map
from vnic.memory.shadow import ShadowRegion
from vnic.pci.capability import CAP_MSI, MSI_CONTROL
from vnic.pci.config import COMMAND, COMMAND_MASTER, INTERRUPT_PIN
from vnic.pci.device import PciDevice, PciHandles
from vnic.pci.irq import MessageSocket
from vnic.protocol.vfio_user import messages as m
from vnic.protocol.vfio_user.messages import (
    DmaMap,
    IrqInfo,
    Refused,
    RegionInfo,
    SetIrqs,
)
from vnic.record import require, within

log = logging.getLogger(__name__)

_RAM_BYTES = 1 << 20
"""A map of at least this size is RAM; before the guest runs, a VM has no other map as large."""
_VIDEO_BYTES = 64 << 20
"""A device that is plugged into a running VM may see a video card's memory, which is not shared, up to this size."""
_HOW_TO_SHARE = (
    "QEMU with -object memory-backend-memfd,id=mem,size=SIZE,share=on and -machine …,memory-backend=mem"
)
_READ_WRITE = m.REGION_FLAG_READ | m.REGION_FLAG_WRITE


def _nothing() -> None:
    """Nothing is kept."""


class VfioPciPort:
    """One VM on one device, from `plug` (the constructor) to `close`."""

    def __init__(
        self,
        device: PciDevice,
        memory: GuestMemory,
        watcher: Watcher,
        name: str,
        make_shadow: Callable[[Callable[[], None]], MessageShadow],
        messages: MessageSocket | None = None,
        changed: Callable[[], None] = _nothing,
        restored: bool = False,
    ) -> None:
        """`memory` is the VM's, still empty. `make_shadow(forget)` makes the shadow copy for memory that the VM does
        not share; `forget` is MessageShadow's. `messages`: the VM's connection, if it can be lent. `changed` is called
        when memory or interrupts differ. `restored`: `restore` is called next, and the device is restored after it."""
        self.memory = memory
        self._changed = changed
        self._device = device
        self._name = name
        self._make_shadow = make_shadow
        self._shared: bool | None = None
        """Whether the VM shares its memory; None while that is unknown."""
        self._shadow: MessageShadow | None = None
        regions = [RegionInfo()] * m.REGION_COUNT
        for index, bar in device.bars.items():
            regions[index] = RegionInfo(bar.size, _READ_WRITE)
        regions[m.REGION_CONFIG] = RegionInfo(device.config.size, _READ_WRITE)
        self.regions: Sequence[RegionInfo] = regions
        msi = device.config.find(CAP_MSI)
        self._irqs = EventfdIrqs(
            watcher,
            intx=device.config.data[INTERRUPT_PIN] != 0,
            msi=1 << (device.config.data[msi + MSI_CONTROL] >> 1 & 7) if msi else 0,
            msix=device.msix.vectors if device.msix else 0,
            messages=messages,
            changed=changed,
        )
        self.irqs: Sequence[IrqInfo] = self._irqs.infos
        if not restored:
            device.plug(self._irqs, self.memory)

    # --- State apart from handles ---

    def save(self) -> tuple[MemoryMapRecord, bool | None, EventfdIrqsRecord]:
        return save_map(self.memory)[0], self._shared, self._irqs.save()[0]

    @property
    def fds(self) -> tuple[list[int], list[int]]:
        """The descriptors that belong to the record, still ours: of the memory, and of the interrupts."""
        return save_map(self.memory)[1], self._irqs.save()[1]

    def restore(
        self,
        memory: tuple[MemoryMapRecord, Sequence[int]],
        shared: bool | None,
        irqs: tuple[EventfdIrqsRecord, list[int]],
        checked: Callable[[], None],
    ) -> None:
        """Raises RecordError, and changes nothing then. After it, the descriptors of the interrupts are ours; those of
        the memory stay the caller's. `checked` is called in between, and must not raise."""
        with within("irqs"):
            self._irqs.check(*irqs)
        with within("memory"):
            kinds = {each.kind for each in memory[0].regions}
            odd = kinds - ({"shadow"} if shared is False else {"file", "unshared"})
            require(not odd, "regions", f"have {sorted(odd)}, and shared is {shared}")
            restore_map(self.memory, *memory)
        checked()
        self._irqs.restore(*irqs)
        self._shared = shared
        if shared is False:
            self._shadow = self._make_shadow(self._forget_shadow)

    @property
    def handles(self) -> PciHandles:
        """What the device is restored with."""
        return PciHandles(self._irqs, self.memory, self._shadow)

    def go_on(self) -> None:
        """After a restart, in which the device was restored."""
        self._irqs.go_on()
        self._device.look_at_rings()

    def refuse(self) -> None:
        """End after `restore`: the device, which was not restored with it, is left as it is."""
        self._irqs.close()

    def close(self, done: Callable[[], None]) -> None:
        """The VM has disconnected: reset the device to its power-on state. `done` is called, now or later, when the
        VM's memory is not accessed any more; the next VM may be attached only then."""

        def unplugged() -> None:
            self._irqs.close()
            done()

        if self._shadow is not None:
            self._shadow.close()
        self._device.unplug(unplugged)

    @property
    def descriptors(self) -> int:
        """The VM's descriptors that are held for its memory and its interrupts."""
        return self.memory.descriptors + self._irqs.descriptors

    # --- protocol.vfio_user.server.Device ---

    def opened(self) -> None:
        """QEMU has mapped its memory by now, so it gets the error for an unusable memory map at its start."""
        self._settle(_RAM_BYTES)

    def _settle(self, least: int) -> None:
        """Decide by the maps of `least` bytes and more whether the VM shares its memory. Raises Refused.

        Either it shares all memory that matters, or all is shadowed, because rings and buffers of different kinds could
        not be kept in order. Without such a map the question stays open: a small VM has none of the size of RAM, and
        one behind an IOMMU has none yet.
        """
        if self._shared is None:
            unshared = [r.size for r in self.memory.regions if r.fd is None and r.size >= least]
            shared = any(r.fd is not None and r.size >= least for r in self.memory.regions)
            if unshared and (not shared or max(unshared) > _VIDEO_BYTES):
                self._begin_shadow()
            elif shared:
                self._shared = True
            self._changed()

    def _begin_shadow(self) -> None:
        """The VM does not share its memory. Raises Refused."""
        if self._device.needs_shared_memory:
            raise self._refused(
                GuestMemoryError(f"this NIC needs a VM that shares its memory: {_HOW_TO_SHARE}")
            )
        shadows: list[Region] = []
        try:
            self.memory.expect(*(region.size for region in self.memory.regions), instead=True)
            shadows.extend(
                ShadowRegion(region.guest_addr, region.size, writable=region.writable)
                for region in self.memory.regions
            )
            self.memory.replace(shadows)
        except GuestMemoryError as error:
            for region in shadows:
                region.close()
            raise self._refused(error) from None
        self._shared = False
        self._shadow = self._make_shadow(self._forget_shadow)
        self._device.use_shadow(self.memory, self._shadow)
        self._changed()
        log.info(
            "%s: the VM does not share its memory, so that each packet takes several messages; faster is %s",
            self._name,
            _HOW_TO_SHARE,
        )

    def _forget_shadow(self) -> None:
        """Release the memory of the shadow copy to the system."""
        self._device.dma_unmapped(0, ADDRESS_LIMIT)
        for region in self.memory.regions:
            if isinstance(region, ShadowRegion):
                region.forget()
        self._shadow_changed()

    def _refused(self, error: GuestMemoryError) -> Refused:
        log.warning("%s: the VM's memory map is refused: %s", self._name, error)
        return Refused(errno.EINVAL, str(error))

    def dma_map(self, request: DmaMap, fd: int | None) -> None:
        if self._shared is None and self._device.bus_master:
            if fd is None:
                self._begin_shadow()
            else:
                self._shared = True
        try:
            self.memory.add(self._region(request, fd))
        except GuestMemoryError as error:
            raise self._refused(error) from None
        self._changed()
        self._device.dma_mapped(request.address, request.size)

    def _region(self, request: DmaMap, fd: int | None) -> Region:
        """Raises GuestMemoryError."""
        if self._shared is False or fd is not None:
            self.memory.expect(request.size)
        if self._shared is False:
            return ShadowRegion(request.address, request.size, writable=request.writable)
        if fd is not None:
            return MappedRegion(request.address, request.size, fd, request.offset, writable=request.writable)
        region = Region(request.address, request.size)
        region.writable = request.writable
        return region

    def dma_unmap(self, address: int, size: int) -> None:
        self._changed()
        self._device.dma_unmapped(address, size)
        if not self.memory.remove_within(address, size):
            raise Refused(errno.ENOENT, f"nothing is mapped in {address:#x}+{size:#x}")
        self._shadow_changed()

    def dma_unmap_all(self) -> None:
        self._changed()
        self._device.dma_unmapped(0, ADDRESS_LIMIT)
        self.memory.close()
        self._shadow_changed()

    def _shadow_changed(self) -> None:
        """Part of the shadow copy was removed or emptied: the device has to fetch again what it needs."""
        if self._shadow is not None:
            self._device.dma_mapped(0, ADDRESS_LIMIT)

    def region_read(self, index: int, offset: int, count: int) -> bytes:
        if index == m.REGION_CONFIG:
            return self._device.config_read(offset, count)
        return self._device.window_read(index, offset, count)

    def region_write(self, index: int, offset: int, data: bytes) -> None:
        if index == m.REGION_CONFIG:
            if self._shared is None and _sets_master(offset, data):  # now the device may access memory
                self._settle(_RAM_BYTES)
                self._settle(1)
            self._device.config_write(offset, data)
        else:
            self._device.window_write(index, offset, data)

    def set_irqs(self, request: SetIrqs, fds: list[int]) -> None:
        self._changed()
        self._irqs.set(request, fds)
        self._device.lines_changed()

    def reset(self) -> None:
        self._device.reset()


def _sets_master(offset: int, data: bytes) -> bool:
    """Whether a write to config space turns bus mastering on."""
    at = COMMAND - offset
    return 0 <= at < len(data) and bool(data[at] & COMMAND_MASTER)

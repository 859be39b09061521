"""The base of every PCI NIC model: config space, windows, interrupts and access to guest memory.

A model (virtio-net-pci, e1000) derives from `PciDevice`; an attachment (vfio-user) attaches a VM with
`plug()`, then calls the window, config and reset methods, all from one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from vnic.keep import NO_KEPT, Kept
from vnic.memory.guest import NO_MEMORY, GuestMemory, GuestMemoryError
from vnic.memory.shadow import Shadow, ShadowDma
from vnic.pci import capability
from vnic.pci.bar import Bar
from vnic.pci.config import (
    COMMAND,
    COMMAND_INTX_DISABLE,
    COMMAND_MASTER,
    STATUS,
    STATUS_INTERRUPT,
    ConfigSpace,
    ConfigSpaceRecord,
    PciId,
)
from vnic.pci.dma import Dma, NoDma, RingFeed
from vnic.pci.irq import IrqLines, NoIrq
from vnic.pci.msix import MsixTable, MsixTableRecord
from vnic.record import Record, RecordError, require, within

_NO_IRQ = NoIrq()
_NO_DMA = NoDma()


class PciDeviceRecord(Record, frozen=True):
    """A PciDevice without the part of its model."""

    config: ConfigSpaceRecord
    msix: MsixTableRecord | None
    intx: bool
    """The level of the pin, as the model set it."""


class PciHandles(NamedTuple):
    """The handles of the VM that a restored device is attached to."""

    irq: IrqLines
    memory: GuestMemory
    shadow: Shadow | None = None
    """Set if the VM does not share its memory."""
    cells: memoryview | None = None
    """Kept memory for what changes too often for records (`vnic.keep`): as many u64 as the device's `cells_wanted`. Set
    after a restart, in which the process before was killed at any instruction: what it left there, where the device
    goes on, is newer than its record."""


class PciDevice:
    """The interface of a NIC for attachments, and the base of a NIC model.

    MSI-X is first in the list of capabilities, unless the model has its capability among the others.

    A model overrides `region_read` and `region_write` (its BARs), `device_reset`, and, if it keeps views of guest
    memory, `dma_unmapped`. It interrupts with `set_intx` and `notify`, and accesses memory with `dma`. It adds its
    descriptor rings to `rings`, which fetches them if a VM does not share its memory.
    """

    cells_wanted: ClassVar[int] = 0
    shows_link: ClassVar[bool] = True
    """False: the chip has nothing by which a driver could see its link."""
    needs_shared_memory: ClassVar[bool] = False
    """The device reads memory while the driver waits for the answer to a register access, so that it cannot be fetched
    in time: a VM that does not share its memory is refused."""
    link_lag_seconds: ClassVar[float] = 0.0
    """How long common drivers take to act on a link change after its interrupt: a VM stays attached that long before
    its NIC is removed."""

    def __init__(
        self,
        ident: PciId,
        bars: Sequence[Bar],
        *,
        capabilities: Sequence[capability.Capability] = (),
        msix: MsixTable | None = None,
        interrupt_pin: int = 1,
    ) -> None:
        # A function with the PCI Express capability must have extended config space: otherwise firmware ignores it
        # (edk2's PciCapLib).
        express = any(each.id == capability.CAP_PCIE for each in capabilities)
        self.config = ConfigSpace(ident, interrupt_pin=interrupt_pin, express=express)
        self.msix = msix
        windows = [*bars, *([msix.window] if msix is not None and msix.window is not None else [])]
        self.bars: dict[int, Bar] = {bar.index: bar for bar in windows}
        if len(self.bars) != len(windows):
            raise ValueError("two windows in one BAR")
        if msix is not None:
            msix.check_bars(self.bars)
        self._msix_bars = msix.bars if msix is not None else frozenset()
        for bar in self.bars.values():
            self.config.add_bar(bar)
        listed = any(each.id == capability.CAP_MSIX for each in capabilities)
        for entry in (*((msix.capability(),) if msix and not listed else ()), *capabilities):
            self.config.add_capability(entry)
        self.irq: IrqLines = _NO_IRQ
        self._memory = NO_MEMORY
        self.shadow: Shadow | None = None
        """Set while the attached VM does not share its memory: `dma` and `_memory` are a shadow copy then."""
        self._dma: Dma = _NO_DMA
        self.rings = RingFeed(lambda: self.bus_master, self.dma_refused)
        self._intx = False
        self.kept: Kept = NO_KEPT
        """The place of this device's record."""
        self.dirty = False
        """The record differs since the attachment last set this to False."""
        self.access = memoryview(bytearray(8)).cast("Q")
        """One u64, in which the attachment counts the accesses before each: see `undo_read`."""

    # --- Called by the attachment ---

    def plug(self, irq: IrqLines, memory: GuestMemory) -> None:
        """A VM attaches. Its memory may still be empty; `dma_mapped` reports each region."""
        self.irq = irq
        self._memory = self._dma = memory
        self.touched()

    def use_shadow(self, memory: GuestMemory, shadow: Shadow) -> None:
        """The VM does not share its memory: `memory`, which `plug` gave, is a shadow copy. Called before a driver can
        use any."""
        self.shadow = shadow
        self._dma = ShadowDma(memory, shadow, self.dma_refused)
        self.rings.use_shadow(memory, shadow)

    def unplug(self, done: Callable[[], None]) -> None:
        """The VM detached: return to the power-on state, without lines and memory.

        `done` is called, now or later, when they are no longer used; they must stay valid until then.
        """
        self.reset()
        self.irq = _NO_IRQ
        self._memory, self.shadow = NO_MEMORY, None
        self._dma = _NO_DMA
        self.rings.unplug()
        self.touched()
        done()

    def reset(self) -> None:
        """A bus reset, an FLR or the VM's reset: reset config space, interrupts, then the model."""
        self.config.reset()
        if self.msix is not None:
            self.msix.reset()
        self.set_intx(False)
        self.rings.drop()
        self.device_reset()
        self.touched()

    def config_read(self, offset: int, length: int) -> bytes:
        """Read config space. The range is inside `config.size`; the caller checks it."""
        return self.config.read(offset, length)

    def config_write(self, offset: int, data: bytes) -> None:
        """Write config space, as `config_read`, and carry out the effects of the written bits."""
        before, message_before, power_before = (
            self.config.get(COMMAND, 2),
            self.msix_enabled,
            self._power_state,
        )
        self.config.write(offset, data)
        if self._power_state not in capability.PM_STATES:
            self._power_state = power_before
        after = self.config.get(COMMAND, 2)
        self._drive_intx()  # INTx Disable and the enables of MSI and MSI-X all gate it
        if (before ^ after) & COMMAND_MASTER:
            if self.shadow is not None and not after & COMMAND_MASTER:
                self.shadow.drop()
            if after & COMMAND_MASTER:
                self.rings.restart()
            self.bus_master_changed(bool(after & COMMAND_MASTER))
        if self.msix_enabled != message_before:
            self.irqs_changed()
        if self._asks_flr(offset, data):
            self.reset()
        self.touched()

    def window_read(self, region: int, offset: int, length: int) -> bytes:
        """Read `length` bytes of BAR `region`. The range is inside its size; the caller checks it."""
        if region in self._msix_bars and self.msix is not None:
            data = self.msix.read(region, offset, length, self.irq.msix_pending())
            if data is not None:
                return data
        return self.region_read(region, offset, length)

    def window_write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a BAR, as `window_read`."""
        if region not in self._msix_bars or self.msix is None or not self.msix.write(region, offset, data):
            self.region_write(region, offset, data)
            if self.is_hot(region, offset, len(data)):
                return
        self.touched()

    def lines_changed(self) -> None:
        """The VM set or removed eventfds for its interrupts."""
        self._drive_intx()
        self.irqs_changed()

    # --- State apart from handles ---

    def use_cells(self, cells: memoryview) -> None:
        """Go on in these cells from now on, with the values of this device; `restore` takes the place of this after a
        restart."""

    def undo_read(self, access: int) -> None:
        """After a restart: the access of this number follows once more, because the process before did not answer it.
        If it was a read that has cleared what it read, that comes back."""

    def save_function(self) -> PciDeviceRecord:
        return PciDeviceRecord(
            config=self.config.save(),
            msix=self.msix.save() if self.msix is not None else None,
            intx=self._intx,
        )

    def check_function(self, record: PciDeviceRecord) -> None:
        """Raise RecordError if the record is another function's."""
        with within("config"):
            self.config.check(record.config)
            at = self.config.find(capability.CAP_PM)
            state = record.config.data[at + capability.PM_CONTROL] & capability.PM_STATE_MASK if at else 0
            require(state in capability.PM_STATES, "data", f"has the power state {state}")
        shown = bool(record.config.data[STATUS] & STATUS_INTERRUPT)
        require(record.intx == shown, "intx", f"is {record.intx}, and the status register says {shown}")
        if self.msix is not None and record.msix is not None:
            with within("msix"):
                self.msix.check(record.msix)
        elif self.msix is not None or record.msix is not None:
            raise RecordError(
                "msix", "is missing" if record.msix is None else "is of a function without MSI-X"
            )

    def restore_function(self, record: PciDeviceRecord, handles: PciHandles) -> None:
        """Take a checked record, in place of `plug`. Restore the model's own state next, then call `resume`."""
        self.irq = handles.irq
        self._memory = self._dma = handles.memory
        self.config.restore(record.config)
        if self.msix is not None and record.msix is not None:
            self.msix.restore(record.msix)
        self._intx = record.intx
        if handles.shadow is not None:
            self.use_shadow(handles.memory, handles.shadow)

    def resume(self) -> None:
        """All is restored: drive the pin as it was, and have fetched what a shadow copy held."""
        self._drive_intx()
        self.rings.restart()

    def look_at_rings(self) -> None:
        """After a restart, when all is restored: a kick may have been lost."""

    # --- Overridden by models ---

    def is_hot(self, region: int, offset: int, length: int) -> bool:
        """Whether such a write changes nothing that the record has and cells, or the guest's memory, have not."""
        return False

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        """A guest's read of a BAR outside the MSI-X table: `length` bytes (1, 2, 4 or 8 from a real driver)."""
        return bytes(length)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        """A guest's write to a BAR outside the MSI-X table. Must not raise, whatever the data."""

    def device_reset(self) -> None:
        """Reset the model's own registers. The link's state stays."""

    def dma_mapped(self, addr: int, size: int) -> None:
        """Guest memory was mapped at `addr`."""
        self.rings.restart()

    def dma_unmapped(self, addr: int, size: int) -> None:
        """Guest memory is unmapped: on return, no view of the range may exist. It may be mapped again at once."""

    def dma_refused(self, error: GuestMemoryError) -> None:
        """The VM refused an earlier write through `dma` to memory that it does not share."""

    def bus_master_changed(self, enabled: bool) -> None:
        """The guest enabled or disabled bus mastering; `dma` changes by itself."""

    def irqs_changed(self) -> None:
        """MSI-X was enabled or disabled, or the VM replaced eventfds: results of `irq.msix_fd` may be stale."""

    # --- Called by models ---

    def touched(self) -> None:
        """What the record has, and cells have not, differs."""
        self.dirty = True
        self.kept.changed()

    @property
    def dma(self) -> Dma:
        """Guest memory; every access is refused while the guest has bus mastering disabled."""
        return self._dma if self.bus_master else _NO_DMA

    @property
    def bus_master(self) -> bool:
        """Whether the guest has enabled bus mastering, for memory and for message interrupts, which are writes."""
        return bool(self.config.data[COMMAND] & COMMAND_MASTER)

    @property
    def msix_enabled(self) -> bool:
        """Whether MSI-X is enabled, so that the INTx pin must not be used (PCI 3.0 §6.8.3.3)."""
        at = self.config.find(capability.CAP_MSIX)
        if not at:
            return False
        enabled = self.config.data[at + capability.MSIX_CONTROL + 1] & capability.MSIX_ENABLE >> 8
        return bool(enabled) or self.irq.msix_on()

    @property
    def msi_enabled(self) -> bool:
        """As `msix_enabled`, for MSI."""
        at = self.config.find(capability.CAP_MSI)
        return bool(at and self.config.get(at + capability.MSI_CONTROL, 2) & capability.MSI_ENABLE)

    def set_intx(self, level: bool) -> None:
        """Assert or deassert the pin; Status shows the level even if Command disables the interrupt."""
        self._intx = level
        self.config.data[STATUS] = (self.config.data[STATUS] & ~STATUS_INTERRUPT) | STATUS_INTERRUPT * level
        self._drive_intx()

    @property
    def intx(self) -> bool:
        """The level that the model last set."""
        return self._intx

    def notify(self, vector: int) -> bool:
        """Send a message interrupt by MSI-X or MSI; False if neither is enabled or it cannot be sent."""
        if not self.bus_master:
            return False  # PCI 3.0 §6.8.3.4: it is a memory write
        if self.msix_enabled:
            return self.irq.msix_notify(vector)
        return self.msi_enabled and self.irq.msi_notify(vector)

    # --- Internal ---

    @property
    def _power_state(self) -> int:
        """PowerState of PMCSR: the n of Dn. A state that is not supported is discarded (PCI PM 1.2 §3.2.4)."""
        at = self.config.find(capability.CAP_PM)
        return self.config.data[at + capability.PM_CONTROL] & capability.PM_STATE_MASK if at else 0

    @_power_state.setter
    def _power_state(self, state: int) -> None:
        at = self.config.find(capability.CAP_PM) + capability.PM_CONTROL
        self.config.data[at] = self.config.data[at] & ~capability.PM_STATE_MASK | state

    def _drive_intx(self) -> None:
        disabled = self.config.data[COMMAND + 1] & COMMAND_INTX_DISABLE >> 8
        blocked = disabled or self.msix_enabled or self.msi_enabled
        self.irq.set_intx(self._intx and not blocked)

    def _asks_flr(self, offset: int, data: bytes) -> bool:
        """Whether this write set Initiate Function Level Reset (PCIe 3.0 §7.8.4). The bit itself reads as zero."""
        at = self.config.find(capability.CAP_PCIE)
        if not self.config.data[at + capability.PCIE_CAPABILITIES_END] & capability.PCIE_FLR_CAPABLE:
            return False
        high = at + capability.PCIE_DEVICE_CONTROL + 1 - offset
        return bool(at and 0 <= high < len(data) and data[high] << 8 & capability.PCIE_FLR)

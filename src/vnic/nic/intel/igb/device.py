"""The 82576 as a PCI device: its windows, capabilities and queues. It has no VFs, and no SR-IOV capability.

What it has in common with the other models is `IntelNic`, where the link is. As in QEMU, the link is down after a
reset, until the driver has started a negotiation. A link change reaches the guest as ICR.LSC, by EICR and a message.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.chip import MMIO_BAR, IntelNic
from vnic.nic.intel.filter import ADDRESS_REGISTERS
from vnic.nic.intel.igb import nvm
from vnic.nic.intel.igb import registers as r
from vnic.nic.intel.igb.interrupts import EXTENDED, ICR_RXDW, ExtendedInterrupts
from vnic.nic.intel.igb.phy import PHY_ID2, PHY_REGISTERS
from vnic.nic.intel.igb.record import IgbRecord
from vnic.nic.intel.igb.rx import MRQC_VMDQ, QueuedReceiver, Steering
from vnic.nic.intel.igb.tx import AdvancedTransmitter
from vnic.nic.intel.nvm import Nvm
from vnic.nic.intel.parts import Parts
from vnic.nic.intel.phy import Phy
from vnic.nic.intel.rx_formats import Arrival
from vnic.pci import capability
from vnic.pci.bar import Bar
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.pci.msix import MsixTable
from vnic.record import require

_FLASH_BAR, _IO_BAR, _MSIX_BAR = 1, 2, 3
_IO_BYTES: Final = 32
_MSIX_BYTES: Final = 16384
_PBA_AT: Final = 0x2000
_PM_AT, _MSI_AT, _MSIX_AT, _PCIE_AT, _AER_AT = 0x40, 0x50, 0x70, 0xA0, 0x100
_RCTL_LBM_MAC: Final = 1 << 6
_CTRL_FRCSPD, _CTRL_FRCDPX = 1 << 11, 1 << 12
_CTRL_SPEED_SHIFT, _STATUS_SPEED_SHIFT = 8, 6
_TSYNC_ENABLED: Final = 1 << 4
_TAILS: Final = [
    first + r.QUEUE_BYTES * number + regs.TAIL for first in (r.RX, r.TX) for number in range(r.QUEUES)
]
_HOT_WRITES: Final = frozenset(
    {
        *(regs.ICR, regs.ICS, regs.IMS, regs.IMC, r.EICR, r.EICS, r.EIMS, r.EIMC, *_TAILS),
        *(alias for alias, offset in r.ALIASES.items() if offset in _TAILS),
    }
)
"""The registers that cells have."""


class Igb(IntelNic):
    """One NIC."""

    record = IgbRecord
    cells_wanted = c.count(r.QUEUES)
    queues = r.QUEUES
    io_bar = _IO_BAR
    receive_unit = QueuedReceiver
    transmitter = AdvancedTransmitter
    rings_at = (r.RX, r.TX, r.QUEUE_BYTES)
    addresses_at = (*ADDRESS_REGISTERS, *range(r.RA2, r.RA2 + 4 * r.RA2_COUNT, 4))
    starts_up = False
    interrupts: ExtendedInterrupts
    link_lag_seconds = 0.1
    """Linux's igb starts its watchdog from the interrupt."""

    def __init__(self) -> None:
        msix = MsixTable(
            r.VECTORS,
            table_bar=_MSIX_BAR,
            table_offset=0,
            pba_bar=_MSIX_BAR,
            pba_offset=_PBA_AT,
            at=_MSIX_AT,
        )
        super().__init__(
            "igb",
            PciId(
                regs.VENDOR_INTEL, nvm.DEVICE_ID, nvm.SUBSYSTEM_VENDOR, nvm.SUBSYSTEM, revision=nvm.REVISION
            ),
            [
                Bar(MMIO_BAR, regs.MMIO_BYTES),
                Bar(_FLASH_BAR, regs.MMIO_BYTES),
                Bar(_IO_BAR, _IO_BYTES, io=True),
                Bar(_MSIX_BAR, _MSIX_BYTES, is_64bit=True),
            ],
            Parts(r.BY_OFFSET, r.ALIASES, Phy(PHY_REGISTERS, PHY_ID2), Nvm(nvm.TEMPLATE, nvm.EERD)),
            capabilities=(
                capability.intel_power_management(_PM_AT),
                capability.msi(at=_MSI_AT),
                msix.capability(),
                replace(capability.pcie_endpoint(), at=_PCIE_AT),
            ),
            msix=msix,
        )
        self.config.add_extended(capability.advanced_error_reporting(), _AER_AT)
        self._serve_own_registers()

    # --- What IntelNic and its units ask ---

    def make_interrupts(self) -> ExtendedInterrupts:
        return ExtendedInterrupts(self.values, self)

    def arrival(self, frame: bytes, tag: int | None) -> Arrival:
        return Steering(self.values).arrival(frame, tag)

    def receive_causes(self, queue: int, low: bool) -> int:
        """`low` is by RCTL, which the 82576 does not look at."""
        causes = ICR_RXDW | self.interrupts.receive_vector(queue) << EXTENDED
        if self.rx.queues[queue].ring.posted == Steering(self.values).threshold(queue):
            causes |= regs.ICR_RXDMT0
        return causes

    def transmit_causes(self, queue: int) -> int:
        return regs.ICR_TXDW | self.interrupts.transmit_vector(queue) << EXTENDED

    def layout_changed(self) -> None:
        steering = Steering(self.values)
        for queue in self.rx.queues:
            queue.format = steering.format(queue.number, self.rx.rctl)

    @property
    def loops_back(self) -> bool:
        return super().loops_back or bool(self.rx.rctl & _RCTL_LBM_MAC)

    # --- Lines: what the interrupts ask ---

    def set_level(self, level: bool) -> None:
        if level != self.intx:
            self.set_intx(level)

    def causes_changed(self) -> None:
        self.report_interrupt(told=self.interrupts.tells_of_link())

    # --- State apart from handles ---

    def save(self) -> IgbRecord:
        return IgbRecord(
            **self.save_chip(), nvm=self.nvm.save_nvm(), further=[tx.save() for tx in self.txs[1:]]
        )

    def restore(self, record: IgbRecord, handles: PciHandles) -> None:
        self.check_chip(record, handles)
        wanted = len(self.txs) - 1
        require(len(record.further) == wanted, "further", f"are {len(record.further)}, not {wanted}")
        self.restore_chip(record, handles)
        self.nvm.restore_nvm(record.nvm)
        for tx, saved in zip(self.txs[1:], record.further, strict=True):
            tx.restore(saved)
        self.go_on(handles)

    # --- PciDevice: the VM's side ---

    def bus_master_changed(self, enabled: bool) -> None:
        super().bus_master_changed(enabled)
        if enabled:
            self.interrupts.lines_changed()

    def irqs_changed(self) -> None:
        self.interrupts.lines_changed()

    def is_hot(self, region: int, offset: int, length: int) -> bool:
        return length == 4 and offset in _HOT_WRITES and region == MMIO_BAR

    # --- Registers ---

    def _serve_own_registers(self) -> None:
        """Which unit serves which of the registers that only the 82576 has."""
        readers, writers, irq = self.registers.readers, self.registers.writers, self.interrupts
        for number in range(r.QUEUES):
            rx, tx = r.RX + r.QUEUE_BYTES * number, r.TX + r.QUEUE_BYTES * number
            writers[rx + r.SRRCTL] = partial(self._write_srrctl, number)
            writers[rx + r.RXDCTL] = partial(self._write_rxdctl, number)
            readers[rx + r.RQDPC] = partial(self._read_rqdpc, rx + r.RQDPC)
            writers[tx + r.TXDCTL] = partial(self._write_txdctl, number)
        readers.update(
            {
                regs.EECD: self._read_eecd,
                regs.IMC: lambda: irq.mask,
                r.EICR: irq.read_extended,
                r.EIMS: lambda: irq.eims,
                r.SWSM: self._read_swsm,
            }
        )
        writers.update(
            {
                regs.STATUS: self._write_status,
                regs.EECD: self._write_eecd,
                r.EICR: irq.clear_extended,
                r.EICS: irq.set_extended,
                r.EIMS: irq.enable_extended,
                r.EIMC: irq.disable_extended,
                r.GPIE: self._write_gpie,
                r.MRQC: self._write_mrqc,
                r.SWSM: partial(self.values.__setitem__, r.SWSM),
                r.TSYNCTXCTL: self._write_tsync,
                r.TSYNCRXCTL: self._write_tsync,
            }
        )

    def reset_mac(self) -> None:
        """A reset by CTRL.RST is one of the PHY, too (QEMU), and the link is down."""
        super().reset_mac()
        self.phy.reset()
        self.link.reset(self.link.carrier)

    def clear_mac(self) -> None:
        super().clear_mac()
        for tx in self.txs:
            tx.tctl = r.TCTL_RESET

    def read_status(self) -> int:
        ctrl = self.values.get(regs.CTRL, 0)
        status = r.STATUS_AS_QEMU | self.values.get(regs.STATUS, 0)
        status |= ctrl & regs.STATUS_FD if ctrl & _CTRL_FRCDPX else regs.STATUS_FD
        forced = ctrl >> _CTRL_SPEED_SHIFT & 3
        status |= (forced if ctrl & _CTRL_FRCSPD else 2) << _STATUS_SPEED_SHIFT
        if not ctrl & r.CTRL_GIO_MASTER_DISABLE:
            status |= r.STATUS_GIO_MASTER_ENABLE
        return status | self.look_at_link(regs.STATUS_LU)

    def _write_status(self, value: int) -> None:
        self.values[regs.STATUS] = self.values.get(regs.STATUS, 0) & value

    def write_ctrl(self, value: int) -> None:
        super().write_ctrl(value)
        if value & regs.CTRL_PHY_RST:
            self.values[regs.STATUS] = r.STATUS_PHYRA

    def _read_eecd(self) -> int:
        value = self.values.get(regs.EECD, 0)
        return value | r.EECD_GNT if value & r.EECD_REQ else value

    def _write_eecd(self, value: int) -> None:
        fixed = self.values.get(regs.EECD, 0) & r.EECD_FIXED
        self.values[regs.EECD] = value & ~(r.EECD_FIXED | r.EECD_GNT) | fixed

    def _read_swsm(self) -> int:
        """Whoever reads it has the semaphore, if it was free (§4.7)."""
        value = self.values.get(r.SWSM, 0)
        if not value & r.SWSM_SMBI:
            self.values[r.SWSM] = value | r.SWSM_SMBI
            self.touched()
        return value

    def _read_rqdpc(self, offset: int) -> int:
        count = self.values.pop(offset, 0)
        if count:
            self.touched()
        return count

    def _write_gpie(self, value: int) -> None:
        self.values[r.GPIE] = value
        self.interrupts.lines_changed()

    def _write_srrctl(self, queue: int, value: int) -> None:
        self.values[r.RX + r.QUEUE_BYTES * queue + r.SRRCTL] = value
        if Steering(self.values).splits(queue):
            self.complain("SRRCTL", "header split is not done: all of a frame is in the packet buffer")
        self.layout_changed()

    def _write_rxdctl(self, queue: int, value: int) -> None:
        self.values[r.RX + r.QUEUE_BYTES * queue + r.RXDCTL] = value
        self.client.flush(0)

    def _write_txdctl(self, queue: int, value: int) -> None:
        self.values[r.TX + r.QUEUE_BYTES * queue + r.TXDCTL] = value
        self.txs[queue].kick()

    def _write_mrqc(self, value: int) -> None:
        self.values[r.MRQC] = value
        if value & MRQC_VMDQ:
            self.complain("MRQC", "there are no VFs and no pools: all frames go to queue 0")

    def _write_tsync(self, value: int) -> None:
        """It reads as 0: no timestamp is ever valid."""
        if value & _TSYNC_ENABLED:
            self.complain("TSYNC", "time stamps of packets (IEEE 1588) are not supported")

"""The e1000e (82574L): two queues, MSI-X, MSI or the pin, extended and packet split descriptors, RSS.

A PCI Express function whose capabilities are where QEMU's e1000e has them. How the guest learns of its link is
IntelNic's: LSC, which MSI-X sends as OTHER, and the guest reads STATUS or the PHY's BMSR.
"""

from __future__ import annotations

from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.chip import MMIO_BAR, IntelNic
from vnic.nic.intel.e1000e import interrupts as irq
from vnic.nic.intel.e1000e import registers as r
from vnic.nic.intel.e1000e.nvm import DEVICE_ID, EERD, WORDS
from vnic.nic.intel.e1000e.phy import OEM_BITS, OEM_RESTART, PAGE_SELECT, PHY_ID2, PHY_REGISTERS
from vnic.nic.intel.e1000e.receive import arrival, layout
from vnic.nic.intel.e1000e.record import E1000eRecord
from vnic.nic.intel.e1000e.systim import SystemTime
from vnic.nic.intel.interrupts import Interrupts
from vnic.nic.intel.nvm import Nvm
from vnic.nic.intel.parts import Parts
from vnic.nic.intel.phy import BMSR, BMSR_NEGOTIATED, Phy
from vnic.nic.intel.rx import buffer_bytes
from vnic.nic.intel.rx_formats import Arrival
from vnic.nic.intel.tx import Transmitter
from vnic.pci import capability as cap
from vnic.pci.bar import Bar
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.pci.msix import MsixTable

_FLASH_BAR, _IO_BAR, _MSIX_BAR = 1, 2, 3
_FLASH_BYTES, _IO_BYTES, _MSIX_BYTES = 0x20000, 32, 0x4000
_PBA_OFFSET = 0x2000
_PM_AT, _MSI_AT, _PCIE_AT, _MSIX_AT = 0xC8, 0xD0, 0xE0, 0xA0
_AER_AT, _DSN_AT = 0x100, 0x140
_LBM, _LBM_MAC = 3 << 6, 1 << 6  # RCTL: loopback mode
_DTYP = 3 << 10  # RCTL: descriptor type
_BSIZE0, _BSIZE1 = 0x7F, 0x3F00  # PSRCTL
_TX_EVERY_WRITE_BACK = 1 << 31  # IVAR
_RX_CAUSES = (irq.ICR_RXQ0, irq.ICR_RXQ1)
_TX_CAUSES = (irq.ICR_TXQ0, irq.ICR_TXQ1)
_KEPT_BY_RST = (r.PBA, r.PBS, r.FLA)
_HOT_WRITES = frozenset(
    {
        *(regs.TDT, regs.RDT, regs.TDT + regs.QUEUE_BYTES, regs.RDT + regs.QUEUE_BYTES),
        *(regs.ICR, regs.ICS, regs.IMS, regs.IMC),
    }
)
"""The registers that cells have."""


class ArbitratedTransmitter(Transmitter):
    """A queue that TARC enables, too (§10.2.6.11)."""

    @property
    def enabled(self) -> bool:
        tarc = self._device.values.get(r.TARC + regs.QUEUE_BYTES * self.queue, 0)
        return super().enabled and bool(tarc & r.TARC_ENABLE)


class E1000e(IntelNic):
    """One NIC."""

    record = E1000eRecord
    queues = 2
    cells_wanted = c.count(queues)
    io_bar = _IO_BAR
    status_reset = r.STATUS_RESET
    frame_causes = IntelNic.frame_causes | irq.ICR_RXQ0 | irq.ICR_RXQ1 | irq.ICR_TXQ0 | irq.ICR_TXQ1
    transmitter = ArbitratedTransmitter
    link_lag_seconds = 0.5
    """Linux's e1000e runs its watchdog when LSC comes."""

    def __init__(self) -> None:
        msix = MsixTable(
            r.VECTORS,
            table_bar=_MSIX_BAR,
            table_offset=0,
            pba_bar=_MSIX_BAR,
            pba_offset=_PBA_OFFSET,
            at=_MSIX_AT,
        )
        super().__init__(
            "e1000e",
            PciId(regs.VENDOR_INTEL, DEVICE_ID, regs.VENDOR_INTEL, 0),
            [
                Bar(MMIO_BAR, regs.MMIO_BYTES),
                Bar(_FLASH_BAR, _FLASH_BYTES),  # without a flash: it reads as zeros
                Bar(_IO_BAR, _IO_BYTES, io=True),
                Bar(_MSIX_BAR, _MSIX_BYTES),
            ],
            Parts(r.BY_OFFSET, r.ALIASES, Phy(PHY_REGISTERS, PHY_ID2, PAGE_SELECT), Nvm(WORDS, EERD)),
            capabilities=(
                cap.intel_power_management(_PM_AT),
                cap.msi(at=_MSI_AT),
                cap.pcie_endpoint_v1(_PCIE_AT),
                msix.capability(),
            ),
            msix=msix,
        )
        self.config.add_extended(cap.advanced_error_reporting(), _AER_AT)
        self.config.add_extended(cap.device_serial_number(), _DSN_AT)
        self.systim = SystemTime(self.values, lambda: self.client.network.clock.monotonic_ns())
        self._serve_own_registers()

    def _serve_own_registers(self) -> None:
        systim = self.systim
        self.registers.readers.update(
            {
                r.EEWR: lambda: r.EEWR_DONE,
                r.GCR: lambda: self.values.get(r.GCR, 0) | r.GCR_LATENCIES,
                regs.EECD: lambda: self.values.get(regs.EECD, 0) | r.EECD_PRES | r.EECD_AUTO_RD,
                r.SWSM: self._read_swsm,
                r.SYSTIML: systim.read_low,
                r.SYSTIMH: systim.read_high,
            }
        )
        self.registers.writers.update(
            {
                regs.STATUS: self._write_status,
                r.IVAR: self._write_ivar,
                r.PSRCTL: self._write_psrctl,
                r.RFCTL: self._write_rfctl,
                r.RXDCTL: self._write_rxdctl,
                r.TIMINCA: systim.write_increment,
                r.TIMADJH: systim.write_adjustment,
            }
        )

    def start(self) -> None:
        self.config.set(_DSN_AT + cap.DSN_NUMBER, 8, cap.serial_number(self.client.mac))
        super().start()

    # --- State apart from handles ---

    def save(self) -> E1000eRecord:
        return E1000eRecord(
            **self.save_chip(),
            nvm=self.nvm.save_nvm(),
            systim=self.systim.save(),
            further_tx=[tx.save() for tx in self.txs[1:]],
        )

    def restore(self, record: E1000eRecord, handles: PciHandles) -> None:
        """Take the place of the NIC that was saved, after `start`. Raises RecordError, and changes nothing then."""
        self.check_chip(record, handles)
        self.restore_chip(record, handles)
        self.nvm.restore_nvm(record.nvm)
        self.systim.restore(record.systim)
        self.txs[1].restore(record.further_tx[0])
        self.go_on(handles)

    # --- What the units need ---

    def make_interrupts(self) -> Interrupts:
        return irq.MessageInterrupts(self)

    def arrival(self, frame: bytes, tag: int | None) -> Arrival:
        return arrival(self.values, frame, tag, self.rx.queues[0].format)

    def receive_causes(self, queue: int, low: bool) -> int:
        return _RX_CAUSES[queue] if self.msix_enabled else super().receive_causes(queue, low)

    def transmit_causes(self, queue: int) -> int:
        return _TX_CAUSES[queue] if self.msix_enabled else super().transmit_causes(queue)

    def layout_changed(self) -> None:
        chosen = layout(self.values, self.rx.rctl, buffer_bytes(self.rx.rctl))
        for queue in self.rx.queues:
            queue.format = chosen
        for tx in self.txs:
            tx.reports_all = bool(self.values.get(r.IVAR, 0) & _TX_EVERY_WRITE_BACK)

    @property
    def loops_back(self) -> bool:
        return super().loops_back or self.rx.rctl & _LBM == _LBM_MAC

    def is_hot(self, region: int, offset: int, length: int) -> bool:
        return length == 4 and offset in _HOT_WRITES and region == MMIO_BAR

    # --- Registers ---

    def reset_mac(self) -> None:
        super().reset_mac()
        self.systim.reset()

    def read_status(self) -> int:
        status = super().read_status() | self.values.get(regs.STATUS, 0)
        if not self.values.get(regs.CTRL, 0) & r.CTRL_MASTER_DISABLE:
            status |= r.STATUS_MASTER
        return status

    def _write_status(self, value: int) -> None:
        """PHYRA is cleared by a zero (QEMU)."""
        if not value:
            self.values[regs.STATUS] = 0

    def write_ctrl(self, value: int) -> None:
        """RST resets the PHY, too, and the link comes back at once (QEMU: e1000e_reset)."""
        if value & regs.CTRL_RST:
            kept = {at: self.values.get(at, 0) for at in _KEPT_BY_RST}
            self.device_reset()
            self.values.update(kept)
        else:
            self.values[regs.CTRL] = value
        if value & regs.CTRL_PHY_RST:
            self.values[regs.STATUS] = r.STATUS_PHYRA

    def _write_ivar(self, value: int) -> None:
        self.values[r.IVAR] = value
        self.layout_changed()

    def _write_rfctl(self, value: int) -> None:
        self.values[r.RFCTL] = value
        self.layout_changed()

    def _write_psrctl(self, value: int) -> None:
        """The first two buffers of packet split have a size (QEMU)."""
        if not self.rx.rctl & _DTYP or (value & _BSIZE0 and value & _BSIZE1):
            self.values[r.PSRCTL] = value
            self.layout_changed()

    def _write_rxdctl(self, value: int) -> None:
        """Both queues' (QEMU)."""
        self.values[r.RXDCTL] = self.values[r.RXDCTL + regs.QUEUE_BYTES] = value

    def phy_written(self, number: int, value: int) -> None:
        super().phy_written(number, value)
        if number == OEM_BITS and value & OEM_RESTART:
            self.link.phy_reset()

    def _status_changed(self) -> None:
        if (self.phy.read(BMSR) or 0) & BMSR_NEGOTIATED:
            self.values[regs.CTRL] = self.values.get(regs.CTRL, 0) | r.CTRL_FLOW_CONTROL
        super()._status_changed()

    def _read_swsm(self) -> int:
        """A read takes the semaphore SMBI: who reads it as zero has it."""
        value = self.values.get(r.SWSM, 0)
        if not value & 1:
            self.values[r.SWSM] = value | 1
            self.touched()
        return value

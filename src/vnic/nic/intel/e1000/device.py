"""The e1000 (82540EM and its variants) as a PCI device: registers, reset, interrupts, link.

An attachment serves it as a `PciDevice`; the Network knows it as an `Endpoint`. How the guest learns:
`link_status_changed` → `link.py` → `_status_changed` → ICR.LSC → the guest reads STATUS or BMSR → `_look_at_link`.
"""

from __future__ import annotations

from functools import partial

from vnic.net.offload import OffloadError, complete
from vnic.net.queue import Frame
from vnic.nic.intel import cells as c
from vnic.nic.intel import regs
from vnic.nic.intel.chip_cells import ChipCells
from vnic.nic.intel.e1000.eeprom import Eeprom
from vnic.nic.intel.e1000.models import MODELS, REVISION, SUBSYSTEM, SUBSYSTEM_VENDOR, VENDOR_INTEL, Model
from vnic.nic.intel.e1000.phy import PHY_REGISTERS
from vnic.nic.intel.e1000.record import E1000Record
from vnic.nic.intel.e1000.registers import ALIASES, BY_OFFSET, MMIO_BYTES, STATUS_RESET
from vnic.nic.intel.filter import ADDRESS_REGISTERS, AddressFilter
from vnic.nic.intel.interrupts import Interrupts
from vnic.nic.intel.link import Link
from vnic.nic.intel.phy import BMCR, BMSR, MDIC_INTERRUPT, Phy
from vnic.nic.intel.registers import (
    IO_BYTES,
    IoWindow,
    RegisterFile,
    read_window,
    write_window,
)
from vnic.nic.intel.rx import RCTL_EN, Receiver, buffer_bytes
from vnic.nic.intel.rx_formats import IXSM, VP, Arrival, Legacy
from vnic.nic.intel.statistics import Statistics
from vnic.nic.intel.tx import MAX_FRAME_BYTES, Transmitter, buffer_of
from vnic.nic.pci_nic import PciNic
from vnic.pci.bar import Bar
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.record import require, within

_MMIO_BAR = 0
_IO_BAR = 1
_WUFC_LNKC = 1 << 0
_RAH_MASK = 0x8003FFFF
_CTRL_FRCSPD = 1 << 11
_CTRL_FRCDPX = 1 << 12
_STATUS_SPEED = 3 << 6
_CTRL_SPEED_SHIFT = 8
_STATUS_SPEED_SHIFT = 6
_UNTAGGED = Arrival(IXSM)
_HOT_WRITES = frozenset({regs.TDT, regs.RDT, regs.ICR, regs.ICS, regs.IMS, regs.IMC, regs.EECD})
"""The registers that cells have."""


class E1000(PciNic):
    """One NIC. `autonegotiation=False` is QEMU's property of that name: the link comes up without the 500 ms."""

    record = E1000Record
    cells_wanted = c.COUNT
    link_lag_seconds = 2.1
    """Linux's e1000 acts on a link change in its watchdog, which runs every 2 s."""

    def __init__(self, model: Model = MODELS["e1000"], *, autonegotiation: bool = True) -> None:
        super().__init__(
            model.name,
            PciId(VENDOR_INTEL, model.device_id, SUBSYSTEM_VENDOR, SUBSYSTEM, revision=REVISION),
            [Bar(_MMIO_BAR, MMIO_BYTES), Bar(_IO_BAR, IO_BYTES, io=True)],
        )
        self.model = model
        self.registers = RegisterFile(BY_OFFSET, ALIASES)
        self.values = self.registers.values
        self._io = IoWindow(self.registers, MMIO_BYTES)
        self.statistics = Statistics()
        self.interrupts = Interrupts(self._drive_pin)
        self.eeprom = Eeprom(model)
        self.phy = Phy(PHY_REGISTERS, model.phy_id2)
        self.link = Link(self.phy, lambda: self.scheduler, self._status_changed, negotiate=autonegotiation)
        self._filter = AddressFilter(self.values)
        self.rx = Receiver(self, self._filter)
        self.tx = Transmitter(self)
        self.rings.add_receive(
            "RX",
            self.rx.ring,
            lambda: buffer_bytes(self.rx.rctl),
            lambda: self.client.flush(0),
            partial(self.bus_error, "RX"),
        )
        self.rings.add_transmit(
            "TX", self.tx.ring, buffer_of, MAX_FRAME_BYTES, self.tx.kick, partial(self.bus_error, "TX")
        )
        self._cells = ChipCells(self.interrupts, self.statistics, self.rx, (self.tx,), self.eeprom)
        self.access = self._cells.access
        self._serve_registers()
        self._clear_mac()

    # --- Endpoint: the Network's side ---

    def start(self) -> None:
        self.eeprom.program(self.client.mac)
        self._reset_mac()
        self.link.reset(self.client.link_up)

    def link_status_changed(self) -> None:
        """QEMU's e1000_set_link_status."""
        up = self.client.link_up
        self.link.set_carrier(up)
        self.touched()
        self._show_link(
            interrupts=False
        )  # where STATUS.LU was so already, by what the guest did to its own link
        self.client.flush(0)  # frames that wait for a buffer are dropped with the link
        if not up:
            self.tx.resume()  # the ring does not wait for a peer while the wire is down

    def link_shown(self) -> bool:
        return self.link.carrier

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return self.rx.receive(frame)

    def overrun(self, queue: int) -> None:
        if self.rx.enabled and self.bus_master:
            self.rx.missed()

    def sent(self, queue: int) -> None:
        self.tx.resume()

    def cleanup(self) -> None:
        self.link.close()
        self.tx.close()

    # --- State apart from handles ---

    def save(self) -> E1000Record:
        return E1000Record(
            **self.save_nic(),
            registers=self.registers.save(),
            io_address=self._io.address,
            statistics=self.statistics.save(),
            interrupts=self.interrupts.save(),
            eeprom=self.eeprom.save(),
            phy=self.phy.save(),
            link=self.link.save(),
            rx=self.rx.save(),
            tx=self.tx.save(),
        )

    def restore(self, record: E1000Record, handles: PciHandles) -> None:
        """Take the place of the NIC that was saved, after `start`. Raises RecordError, and changes nothing then."""
        with within("function"):
            self.check_function(record.function)
        with within("registers"):
            self.registers.check(record.registers)
        with within("phy"):
            self.phy.check(record.phy)
        with within("rx"):
            self.rx.check(record.rx)
        if handles.cells is not None:
            self._cells.check(handles.cells)
        asserted = bool(record.interrupts.cause & record.interrupts.mask)
        require(asserted == record.function.intx, "interrupts.cause", "does not go with the level of the pin")
        self.restore_nic(record, handles)
        self.registers.restore(record.registers)
        self._filter.addresses_changed()
        self._io.address = record.io_address
        self.statistics.restore(record.statistics)
        self.interrupts.restore(record.interrupts)
        self.eeprom.restore(record.eeprom)
        self.phy.restore(record.phy)
        self.link.restore(record.link)
        self.rx.restore(record.rx)
        self._show_buffers()
        self.tx.restore(record.tx)
        if handles.cells is not None:
            self._cells.take_up(handles.cells)
            self.access = self._cells.access
            self.set_intx(self._cells.asserted)
        self.resume()

    def use_cells(self, cells: memoryview) -> None:
        self._cells.move(cells)
        self.access = self._cells.access

    def undo_read(self, access: int) -> None:
        self._cells.undo_read(access)

    # --- What the units need ---

    def arrival(self, frame: bytes, tag: int | None) -> Arrival:
        return _UNTAGGED if tag is None else Arrival(IXSM | VP, tag)

    def receive_causes(self, queue: int, low: bool) -> int:
        return regs.ICR_RXT0 | regs.ICR_RXDMT0 if low else regs.ICR_RXT0

    def transmit_causes(self, queue: int) -> int:
        return regs.ICR_TXDW

    def transmit(self, frame: bytes, offload: bytes) -> bool:
        """Put a frame on the wire. False: it waits at the peer, and `sent` will be called."""
        if self.phy.loopback:
            try:
                for part in complete(offload, frame) if offload else (frame,):
                    if not self.rx.receive(part, looped=True):
                        self.rx.missed()  # nothing offers it again
            except OffloadError as error:
                self.complain("TX offload", str(error))
            return True
        return not self.link.up or self.client.send(0, frame, offload)

    # --- PciDevice: the VM's side ---

    def device_reset(self) -> None:
        """Power-on or a bus reset: everything, the PHY too. A link that is down stays down (QEMU: e1000_reset_hold)."""
        self.phy.reset()
        self.eeprom.reset()
        self._reset_mac()
        self.link.reset(self.link.carrier)
        self._show_link(interrupts=False)

    def bus_master_changed(self, enabled: bool) -> None:
        self._show_driver()
        if enabled:
            self.tx.kick()
        self.client.flush(0)

    def is_hot(self, region: int, offset: int, length: int) -> bool:
        return length == 4 and offset in _HOT_WRITES and region == _MMIO_BAR

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        return read_window(self.registers if region == _MMIO_BAR else self._io, offset, length)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        write_window(self.registers if region == _MMIO_BAR else self._io, offset, data)

    # --- Registers ---

    def _serve_registers(self) -> None:
        """Which unit serves which register; what is not named here is plain storage."""
        registers, rx, tx, irq, eeprom = self.registers, self.rx, self.tx, self.interrupts, self.eeprom
        registers.serve_counters(self.statistics.read)
        registers.serve_ring(regs.RDBAL, rx.ring, self.rings.restart)
        registers.serve_ring(regs.TDBAL, tx.ring, self.rings.restart)
        registers.readers.update(
            {
                regs.STATUS: self._read_status,
                regs.EECD: eeprom.read_eecd,
                regs.EERD: eeprom.read_eerd,
                regs.MDIC: lambda: self.phy.mdic,
                regs.ICR: irq.read,
                regs.ICS: lambda: irq.cause,  # readable on real chips, and drivers rely on it (QEMU)
                regs.IMS: lambda: irq.mask,
                regs.RCTL: lambda: rx.rctl,
                regs.TCTL: lambda: tx.tctl,
            }
        )
        registers.writers.update(
            {
                regs.CTRL: self._write_ctrl,
                regs.EECD: eeprom.write_eecd,
                regs.EERD: eeprom.write_eerd,
                regs.MDIC: self._write_mdic,
                regs.ICR: irq.clear,
                regs.ICS: irq.set,
                regs.IMS: irq.enable,
                regs.IMC: irq.disable,
                regs.RCTL: self._write_rctl,
                regs.TCTL: self._write_tctl,
                regs.TDT: self._write_tdt,
                regs.RDT: self._write_rdt,
                regs.WUFC: self._write_wufc,
                **{at: partial(self._write_address, at) for at in ADDRESS_REGISTERS},
            }
        )

    def _reset_mac(self) -> None:
        """What CTRL.RST resets: all but the PHY, the EEPROM's words and config space (SDM §13.4.1)."""
        self._clear_mac()
        self.interrupts.reset()
        self._show_driver()
        self.client.report.interrupt_acknowledged()
        # No sender may wait for a receiver that is off, and the next guest must not get these frames.
        self.client.purge(0)

    def _clear_mac(self) -> None:
        self.registers.reset()
        low, middle, high = self.eeprom.words[:3]
        self._write_address(regs.RA, middle << 16 | low)
        self._write_address(regs.RA + 4, regs.RAH_AV | high)
        self.statistics.reset()
        self.rings.drop()
        self.rx.reset()
        self.tx.reset()
        self._io.reset()

    def _read_status(self) -> int:
        status = STATUS_RESET
        ctrl = self.values.get(regs.CTRL, 0)
        if ctrl & _CTRL_FRCSPD:
            status &= ~_STATUS_SPEED
            status |= (ctrl >> _CTRL_SPEED_SHIFT & 3) << _STATUS_SPEED_SHIFT
        if ctrl & _CTRL_FRCDPX:
            status = status & ~regs.STATUS_FD | ctrl & regs.STATUS_FD
        return status | self._look_at_link(regs.STATUS_LU)

    def _look_at_link(self, bit: int) -> int:
        """The guest reads the link: `bit` if it is up. This is the step the journal calls seen."""
        up = self.link.up
        self.client.report.seen(up)
        return bit if up else 0

    def _write_ctrl(self, value: int) -> None:
        before = self.values.get(regs.CTRL, 0)
        if value & regs.CTRL_RST:
            self._reset_mac()  # CTRL itself included
        else:
            self.values[regs.CTRL] = value
        if value & ~before & regs.CTRL_PHY_RST:
            self.phy.reset()
            self.link.phy_reset()

    def _write_mdic(self, value: int) -> None:
        number, written, done = self.phy.access(value)
        if number == BMCR and written is not None:
            self.link.phy_control(written)
        elif number == BMSR and done:
            self._look_at_link(0)
        if value & MDIC_INTERRUPT:
            self.interrupts.set(regs.ICR_MDAC)

    def _write_rctl(self, value: int) -> None:
        self.rx.rctl = value
        self._show_buffers()
        self._show_driver()
        self.client.flush(0)  # to the guest, or dropped if the receiver is off

    def _show_buffers(self) -> None:
        self.rx.queues[0].format = Legacy(buffer_bytes(self.rx.rctl))

    def _show_driver(self) -> None:
        """The receiver is on while the guest has the interface up. Its driver enables bus mastering as long as it is
        bound to the card."""
        on = bool(self.rx.rctl & RCTL_EN)
        self.client.report.driver_ok(on, admin_down=self.bus_master and not on)

    def _write_rdt(self, value: int) -> None:
        self.rings.posted(self.rx.ring, value)
        self.client.flush(0)

    def _write_tctl(self, value: int) -> None:
        self.tx.tctl = value
        self.tx.kick()

    def _write_tdt(self, value: int) -> None:
        self.rings.posted(self.tx.ring, value)
        self.tx.kick()

    def _write_wufc(self, value: int) -> None:
        self.values[regs.WUFC] = value
        if value & _WUFC_LNKC:
            self.complain("WUFC.LNKC", "wake-up on a link change is not supported and has no effect")

    def _write_address(self, offset: int, value: int) -> None:
        """RAL and RAH. QEMU shows the first address in `info network` once its upper half is written."""
        self.values[offset] = value & (_RAH_MASK if offset & 4 else 0xFFFFFFFF)
        self._filter.addresses_changed()
        if offset == regs.RA + 4:
            low, high = self.values.get(regs.RA, 0), value & 0xFFFF
            self.show_mac((low | high << 32).to_bytes(6, "little"))

    # --- Interrupts and the journal ---

    def interrupt(self, causes: int) -> None:
        """A unit's causes, which tell of what it wrote; a link change does not wait for that."""
        self.rings.after_writes(self.interrupts.set, causes)

    def _status_changed(self) -> None:
        """STATUS.LU changed, or a negotiation ended: LSC."""
        self.touched()
        self._show_link(interrupts=True)
        self.interrupts.set(regs.ICR_LSC)
        if self.link.up:
            self.client.flush(0)

    def _show_link(self, *, interrupts: bool) -> None:
        """Report the last change of the cable once STATUS shows it. The guest's changes to its PHY are not reported."""
        up = self.link.up
        if up == self.link.carrier:
            self.client.report.notified(up, interrupts=interrupts)

    def _drive_pin(self, pending: int) -> None:
        level = pending != 0
        if level != self.intx:
            self.set_intx(level)
        report = self.client.report
        if report.interrupt_owed:
            if pending & regs.ICR_LSC:
                report.interrupted()
            elif not self.interrupts.cause & regs.ICR_LSC:
                report.interrupt_acknowledged()

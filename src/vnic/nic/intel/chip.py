"""What Intel's gigabit NICs have in common: link, PHY, address filters, and the registers of both directions.

A model derives from `IntelNic`; it adds its table of registers, its interrupts and what its descriptors tell. How the
guest learns: `link_status_changed` → `link.py` → `_status_changed` → ICR.LSC → the guest reads STATUS or, through
MDIC, the PHY's BMSR → `look_at_link`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from vnic.net.offload import OffloadError, complete
from vnic.net.queue import Frame
from vnic.nic.intel import regs
from vnic.nic.intel.chip_cells import ChipCells
from vnic.nic.intel.chip_record import IntelNicRecord
from vnic.nic.intel.filter import ADDRESS_REGISTERS, AddressFilter
from vnic.nic.intel.interrupts import Interrupts
from vnic.nic.intel.link import Link
from vnic.nic.intel.parts import Parts
from vnic.nic.intel.phy import BMCR, BMSR, MDIC_INTERRUPT
from vnic.nic.intel.registers import (
    IoWindow,
    RegisterFile,
    read_window,
    write_window,
)
from vnic.nic.intel.rx import RCTL_EN, Receiver
from vnic.nic.intel.rx_formats import Arrival
from vnic.nic.intel.statistics import Statistics
from vnic.nic.intel.tx import MAX_FRAME_BYTES, Transmitter
from vnic.nic.pci_nic import PciNic
from vnic.pci.bar import Bar
from vnic.pci.capability import Capability
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.pci.msix import MsixTable
from vnic.record import require, within

MMIO_BAR = 0

_WUFC_LNKC = 1 << 0
_RAH_MASK = 0x8003FFFF
_CTRL_FRCSPD = 1 << 11
_CTRL_FRCDPX = 1 << 12
_STATUS_SPEED = 3 << 6
_CTRL_SPEED_SHIFT = 8
_STATUS_SPEED_SHIFT = 6


class IntelNic(PciNic):
    """One NIC. `negotiate=False` is QEMU's property autonegotiation=off: the link comes up without the 500 ms."""

    queues: ClassVar[int] = 1
    io_bar: ClassVar[int | None] = None
    status_reset: ClassVar[int]
    """STATUS without LU."""
    frame_causes: ClassVar[int] = regs.ICR_RXT0 | regs.ICR_TXDW
    """All causes that tell of frames."""
    receive_unit: ClassVar[type[Receiver]] = Receiver
    transmitter: ClassVar[type[Transmitter]] = Transmitter
    rings_at: ClassVar[tuple[int, int, int]] = (regs.RDBAL, regs.TDBAL, regs.QUEUE_BYTES)
    """Where the registers of the first rings are, and how far from these those of the next ones."""
    addresses_at: ClassVar[Sequence[int]] = ADDRESS_REGISTERS
    starts_up: ClassVar[bool] = True
    """After a reset the link is up before the driver negotiates."""
    link_lag_seconds = 2.1
    """Linux's drivers act on a link change in their watchdog, which runs every 2 s."""

    def __init__(
        self,
        name: str,
        ident: PciId,
        bars: Sequence[Bar],
        parts: Parts,
        *,
        negotiate: bool = True,
        capabilities: Sequence[Capability] = (),
        msix: MsixTable | None = None,
    ) -> None:
        super().__init__(name, ident, bars, capabilities=capabilities, msix=msix)
        self.registers = RegisterFile(parts.registers, parts.aliases)
        self.values = self.registers.values
        self._io = IoWindow(self.registers, regs.MMIO_BYTES)
        self.statistics = Statistics()
        self.interrupts = self.make_interrupts()
        self.nvm = parts.nvm
        self.phy = parts.phy
        self.link = Link(self.phy, lambda: self.scheduler, self._status_changed, negotiate=negotiate)
        self.link.starts_up = self.starts_up
        self._filter = AddressFilter(self.values, self.addresses_at)
        self.rx = self.receive_unit(self, self._filter, self.queues)
        self.txs = tuple(self.transmitter(self, number) for number in range(self.queues))
        for queue, tx in zip(self.rx.queues, self.txs, strict=True):
            number = f" {queue.number}" if queue.number else ""
            self.rings.add_receive(
                f"RX{number}",
                queue.ring,
                lambda queue=queue: queue.format.buffer_bytes,  # type: ignore[misc]
                lambda: self.client.flush(0),
                partial(self.bus_error, "RX"),
            )
            self.rings.add_transmit(
                f"TX{number}", tx.ring, tx.buffer_of, MAX_FRAME_BYTES, tx.kick, partial(self.bus_error, "TX")
            )
        self._cells = ChipCells(
            self.interrupts, self.statistics, self.rx, self.txs, parts.bus, self.frame_causes
        )
        self.access = self._cells.access
        self._serve_registers()
        self.clear_mac()

    # --- Overridden by models ---

    def make_interrupts(self) -> Interrupts:
        """The unit of the causes."""
        raise NotImplementedError

    def arrival(self, frame: bytes, tag: int | None) -> Arrival:
        """See `rx.ReceiveHost`."""
        raise NotImplementedError

    def receive_causes(self, queue: int, low: bool) -> int:
        return regs.ICR_RXT0 | regs.ICR_RXDMT0 if low else regs.ICR_RXT0

    def transmit_causes(self, queue: int) -> int:
        return regs.ICR_TXDW

    def layout_changed(self) -> None:
        """RCTL, or another register with the formats of receive descriptors, was written or restored."""
        raise NotImplementedError

    @property
    def loops_back(self) -> bool:
        """Frames that are sent are received, and reach no wire."""
        return self.phy.loopback

    # --- Endpoint: the Network's side ---

    def start(self) -> None:
        self.nvm.program(self.client.mac)
        self.reset_mac()
        self.link.reset(self.client.link_up)

    def link_status_changed(self) -> None:
        """QEMU's e1000_set_link_status, and those of its kin."""
        up = self.client.link_up
        self.link.set_carrier(up)
        self.touched()
        # Where STATUS.LU was so already, by what the guest did to its own link:
        self.show_link(interrupts=False)
        self.client.flush(0)  # frames that wait for a buffer are dropped with the link
        if not up:
            self.sent(0)  # no ring waits for a peer while the wire is down

    def link_shown(self) -> bool:
        return self.link.carrier

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return self.rx.receive(frame)

    def overrun(self, queue: int) -> None:
        if self.rx.enabled and self.bus_master:
            self.rx.missed()

    def sent(self, queue: int) -> None:
        for tx in self.txs:
            tx.resume()

    def cleanup(self) -> None:
        self.link.close()
        for tx in self.txs:
            tx.close()

    # --- State apart from handles ---

    def save_chip(self) -> dict[str, Any]:
        """The fields of IntelNicRecord."""
        return {
            **self.save_nic(),
            "registers": self.registers.save(),
            "io_address": self._io.address,
            "statistics": self.statistics.save(),
            "interrupts": self.interrupts.save(),
            "phy": self.phy.save(),
            "link": self.link.save(),
            "rx": self.rx.save(),
            "tx": self.txs[0].save(),
        }

    def check_chip(self, record: IntelNicRecord, handles: PciHandles) -> None:
        """Raise RecordError for a record, or for cells, that are not of such a chip."""
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
        require(
            asserted or not record.function.intx, "interrupts.cause", "does not go with the level of the pin"
        )

    def restore_chip(self, record: IntelNicRecord, handles: PciHandles) -> None:
        """Take a checked record. Restore the rest, and call `go_on` last."""
        self.restore_nic(record, handles)
        self.registers.restore(record.registers)
        self._filter.addresses_changed()
        self._io.address = record.io_address
        self.statistics.restore(record.statistics)
        self.interrupts.restore(record.interrupts)
        self.phy.restore(record.phy)
        self.link.restore(record.link)
        self.rx.restore(record.rx)
        self.layout_changed()
        self.txs[0].restore(record.tx)

    def go_on(self, handles: PciHandles) -> None:
        """All is restored: go on as the record says, or as the cells of a process that was killed do."""
        if handles.cells is not None:
            self._cells.take_up(handles.cells)
            self.access = self._cells.access
            self.interrupts.tell_again()
        self.resume()

    def use_cells(self, cells: memoryview) -> None:
        self._cells.move(cells)
        self.access = self._cells.access

    def undo_read(self, access: int) -> None:
        self._cells.undo_read(access)

    # --- What the units need ---

    def transmit(self, frame: bytes, offload: bytes) -> bool:
        """Put a frame on the wire. False: it waits at the peer, and `sent` will be called."""
        if self.loops_back:
            try:
                for part in complete(offload, frame) if offload else (frame,):
                    if not self.rx.receive(part, looped=True):
                        self.rx.missed()  # nothing offers it again
            except OffloadError as error:
                self.complain("TX offload", str(error))
            return True
        return not self.link.up or self.client.send(0, frame, offload)

    def interrupt(self, causes: int) -> None:
        """A unit's causes, which tell of what it wrote; a link change does not wait for that."""
        self.rings.after_writes(self.interrupts.set, causes)

    # --- PciDevice: the VM's side ---

    def device_reset(self) -> None:
        """Power-on or a bus reset: everything, the PHY too. A link that is down stays down (QEMU: e1000_reset_hold)."""
        self.phy.reset()
        self.nvm.reset()
        self.reset_mac()
        self.link.reset(self.link.carrier)
        self.show_link(interrupts=False)

    def bus_master_changed(self, enabled: bool) -> None:
        self.show_driver()
        if enabled:
            for tx in self.txs:
                tx.kick()
        self.client.flush(0)

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        if region == MMIO_BAR:
            return read_window(self.registers, offset, length)
        return read_window(self._io, offset, length) if region == self.io_bar else bytes(length)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        if region == MMIO_BAR:
            write_window(self.registers, offset, data)
        elif region == self.io_bar:
            write_window(self._io, offset, data)

    # --- Registers ---

    def _serve_registers(self) -> None:
        """Which unit serves which register; what is not named here, or by the model, is plain storage."""
        registers, rx, irq, nvm = self.registers, self.rx, self.interrupts, self.nvm
        registers.serve_counters(self.statistics.read)
        rx_at, tx_at, step = self.rings_at
        for queue, tx in zip(rx.queues, self.txs, strict=True):
            rx_first, tx_first = (at + step * queue.number for at in (rx_at, tx_at))
            registers.serve_ring(rx_first, queue.ring, self.rings.restart)
            registers.serve_ring(tx_first, tx.ring, self.rings.restart)
            registers.writers[rx_first + regs.TAIL] = partial(self._write_rdt, queue.number)
            registers.writers[tx_first + regs.TAIL] = partial(self._write_tdt, queue.number)
        registers.readers.update(
            {
                regs.STATUS: self.read_status,
                regs.EERD: nvm.read_eerd,
                regs.MDIC: lambda: self.phy.mdic,
                regs.ICR: irq.read,
                regs.ICS: lambda: irq.cause,  # readable on real chips, and drivers rely on it (QEMU)
                regs.IMS: lambda: irq.mask,
                regs.RCTL: lambda: rx.rctl,
                regs.TCTL: lambda: self.txs[0].tctl,
            }
        )
        registers.writers.update(
            {
                regs.CTRL: self.write_ctrl,
                regs.EERD: nvm.write_eerd,
                regs.MDIC: self._write_mdic,
                regs.ICR: irq.clear,
                regs.ICS: irq.set,
                regs.IMS: irq.enable,
                regs.IMC: irq.disable,
                regs.RCTL: self._write_rctl,
                regs.TCTL: self._write_tctl,
                regs.WUFC: self._write_wufc,
                **{at: partial(self._write_address, at) for at in self.addresses_at},
            }
        )

    def reset_mac(self) -> None:
        """What CTRL.RST resets: all but the PHY, the EEPROM's words and config space (SDM §13.4.1)."""
        self.clear_mac()
        self.interrupts.reset()
        self.show_driver()
        self.client.report.interrupt_acknowledged()
        # No sender may wait for a receiver that is off, and the next guest must not get these frames.
        self.client.purge(0)

    def clear_mac(self) -> None:
        self.registers.reset()
        low, middle, high = self.nvm.words[:3]
        self._write_address(regs.RA, middle << 16 | low)
        self._write_address(regs.RA + 4, regs.RAH_AV | high)
        self.statistics.reset()
        self.rings.drop()
        self.rx.reset()
        self.layout_changed()
        for tx in self.txs:
            tx.reset()
        self._io.reset()

    def read_status(self) -> int:
        status = self.status_reset
        ctrl = self.values.get(regs.CTRL, 0)
        if ctrl & _CTRL_FRCSPD:
            status &= ~_STATUS_SPEED
            status |= (ctrl >> _CTRL_SPEED_SHIFT & 3) << _STATUS_SPEED_SHIFT
        if ctrl & _CTRL_FRCDPX:
            status = status & ~regs.STATUS_FD | ctrl & regs.STATUS_FD
        return status | self.look_at_link(regs.STATUS_LU)

    def look_at_link(self, bit: int) -> int:
        """The guest reads the link: `bit` if it is up. This is the step the journal calls seen."""
        up = self.link.up
        self.client.report.seen(up)
        return bit if up else 0

    def write_ctrl(self, value: int) -> None:
        before = self.values.get(regs.CTRL, 0)
        if value & regs.CTRL_RST:
            self.reset_mac()  # CTRL itself included
        else:
            self.values[regs.CTRL] = value
        if value & ~before & regs.CTRL_PHY_RST:
            self.phy.reset()
            self.link.phy_reset()

    def _write_mdic(self, value: int) -> None:
        number, written, done = self.phy.access(value)
        if written is not None:
            self.phy_written(number, written)
        elif number == BMSR and done:
            self.look_at_link(0)
        if value & MDIC_INTERRUPT:
            self.interrupts.set(regs.ICR_MDAC)

    def phy_written(self, number: int, value: int) -> None:
        """The guest wrote a register of the PHY."""
        if number == BMCR:
            self.link.phy_control(value)

    def _write_rctl(self, value: int) -> None:
        self.rx.rctl = value
        self.layout_changed()
        self.show_driver()
        self.client.flush(0)  # to the guest, or dropped if the receiver is off

    def show_driver(self) -> None:
        """The receiver is on while the guest has the interface up. Its driver enables bus mastering as long as it is
        bound to the card."""
        on = bool(self.rx.rctl & RCTL_EN)
        self.client.report.driver_ok(on, admin_down=self.bus_master and not on)

    def _write_rdt(self, queue: int, value: int) -> None:
        self.rings.posted(self.rx.queues[queue].ring, value)
        self.client.flush(0)

    def _write_tctl(self, value: int) -> None:
        for tx in self.txs:
            tx.tctl = value
            tx.kick()

    def _write_tdt(self, queue: int, value: int) -> None:
        self.rings.posted(self.txs[queue].ring, value)
        self.txs[queue].kick()

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

    # --- The link and the journal ---

    def _status_changed(self) -> None:
        """STATUS.LU changed, or a negotiation ended: LSC."""
        self.touched()
        self.show_link(interrupts=True)
        self.interrupts.set(regs.ICR_LSC)
        if self.link.up:
            self.client.flush(0)

    def show_link(self, *, interrupts: bool) -> None:
        """Report the last change of the cable once STATUS shows it. The guest's changes to its PHY are not reported."""
        up = self.link.up
        if up == self.link.carrier:
            self.client.report.notified(up, interrupts=interrupts)

    def report_interrupt(self, *, told: bool) -> None:
        """Causes or their mask changed. `told`: an interrupt for a link change is on its way to the guest."""
        report = self.client.report
        if report.interrupt_owed:
            if told:
                report.interrupted()
            elif not self.interrupts.cause & regs.ICR_LSC:
                report.interrupt_acknowledged()

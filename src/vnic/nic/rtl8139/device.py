"""The RTL8139C+ as a PCI device: registers, reset, interrupts, link.

How the guest learns: `link_status_changed` → `link.py` and ISR.LinkChg → the guest reads BMSR or MSR → seen.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.net.offload import OffloadError, complete
from vnic.net.queue import Frame
from vnic.nic.bus_timer import BusTimer
from vnic.nic.causes import Causes
from vnic.nic.pci_nic import PciNic
from vnic.nic.register_window import SizedRegisterFile
from vnic.nic.rtl8139 import registers as r
from vnic.nic.rtl8139.eeprom import Eeprom
from vnic.nic.rtl8139.link import Link
from vnic.nic.rtl8139.record import PLUS_WRITABLE, RTL8139Record
from vnic.nic.rtl8139.rx import Receiver
from vnic.nic.rtl8139.tally import Tally
from vnic.nic.rtl8139.tx import Transmitter
from vnic.pci.bar import Bar
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.record import within

_VENDOR: Final = 0x10EC
_DEVICE: Final = 0x8139
_SUBSYSTEM_VENDOR: Final = 0x1AF4
_SUBSYSTEM: Final = 0x1100

_CLOCK_RUN: Final = ord("R")
_CLOCK_HALT: Final = ord("H")
_POLL_NORMAL: Final = 0x40
_POLL_HIGH: Final = 0x80
_POLL_SOFTWARE_INTERRUPT: Final = 0x01
_DUMP: Final = 0x08
_DUMP_ALIGNMENT: Final = 0x3F
_WORD: Final = 0xFFFFFFFF


class RTL8139(PciNic):
    """One NIC."""

    record = RTL8139Record

    def __init__(self) -> None:
        super().__init__(
            "rtl8139",
            PciId(_VENDOR, _DEVICE, _SUBSYSTEM_VENDOR, _SUBSYSTEM, revision=r.REVISION),
            [Bar(0, r.WINDOW_BYTES, io=True), Bar(1, r.WINDOW_BYTES)],
        )
        self.eeprom = Eeprom(_VENDOR, _DEVICE)
        self.registers = SizedRegisterFile(r.REGISTERS, lambda: self.eeprom.unlocked)
        self.interrupts = Causes(r.ISR_BITS, self._drive_pin)
        self.link = Link(lambda up: self.client.report.seen(up))
        self.timer = BusTimer(lambda: self.scheduler, self._timer_expired)
        self.tally = Tally()
        self.command = r.CR_RESET
        self.plus_command = 0
        self._plus = False
        self._clock = True
        self._dump = 0
        self.rx = Receiver(self)
        self.tx = Transmitter(self)
        self.rings.add_reads(
            "RX", self.rx.ring.plan, self.rx.fetched, partial(self.bus_error, "RX"), self.rx.ring.forget
        )
        self.rings.add_reads("TX", self.tx.plan, self.tx.later, partial(self.bus_error, "TX"), self.tx.forget)
        self._serve_registers()

    # --- Endpoint: the Network's side ---

    def start(self) -> None:
        self.eeprom.program(self.client.mac)
        self.link.up = self.client.link_up
        self._reset()

    def link_status_changed(self) -> None:
        """QEMU's rtl8139_set_link_status."""
        self.link.up = up = self.client.link_up
        self.touched()
        self.client.report.notified(up)
        self.interrupts.set(r.LINK_CHANGE)
        self.client.flush(0)  # frames that wait for room are dropped with the link
        if not up:
            self.tx.resume()  # no descriptor waits for a peer while the wire is down

    def link_shown(self) -> bool:
        return self.link.up

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return not self._clock or self.rx.receive(frame)

    def overrun(self, queue: int) -> None:
        if self.command & r.CR_RE and self.bus_master:
            self.rx.missed_one()

    def sent(self, queue: int) -> None:
        self.tx.resume()

    def cleanup(self) -> None:
        self.timer.close()
        self.tx.close()

    # --- State apart from handles ---

    def save(self) -> RTL8139Record:
        return RTL8139Record(
            **self.save_nic(),
            registers=self.registers.save(),
            command=self.command,
            plus_command=self.plus_command,
            plus=self._plus,
            clock=self._clock,
            dump=self._dump,
            interrupts=self.interrupts.save(),
            link=self.link.save(),
            timer=self.timer.save(),
            eeprom=self.eeprom.save(),
            tally=self.tally.save(),
            rx=self.rx.save(),
            tx=self.tx.save(),
        )

    def restore(self, record: RTL8139Record, handles: PciHandles) -> None:
        """Take the place of the NIC that was saved, after `start`. Raises RecordError, and changes nothing then."""
        with within("function"):
            self.check_function(record.function)
        with within("registers"):
            self.registers.check(record.registers)
        with within("interrupts"):
            self.interrupts.check(record.interrupts)
        self.restore_nic(record, handles)
        self.registers.restore(record.registers)
        self.command, self.plus_command, self._plus = record.command, record.plus_command, record.plus
        self._clock, self._dump = record.clock, record.dump
        self.interrupts.restore(record.interrupts)
        self.link.restore(record.link)
        self.timer.restore(record.timer)
        self.eeprom.restore(record.eeprom)
        self.tally.restore(record.tally)
        self.rx.restore(record.rx)
        self.tx.restore(record.tx)
        self.resume()
        self.rx.show_again()
        self.tx.show_again()
        self.interrupts.drive()  # causes are saved before the interrupt is sent
        self.tx.kick()

    # --- What the units need ---

    def interrupt(self, causes: int) -> None:
        self.rings.after_writes(self.interrupts.set, causes)

    def flush(self) -> None:
        self.client.flush(0)

    def transmit(self, frame: bytes, offload: bytes) -> bool:
        if not self.tx.loopback:
            return self.client.send(0, frame, offload)
        try:
            for part in complete(offload, frame) if offload else (frame,):
                if not self.receive(0, part):
                    self.rx.missed_one()  # nothing offers it again
        except OffloadError as error:
            self.complain("TX offload", str(error))
        return True

    # --- PciDevice: the VM's side ---

    def device_reset(self) -> None:
        """Power-on or a bus reset. A link that is down stays down."""
        self._reset()

    def bus_master_changed(self, enabled: bool) -> None:
        self._show_driver()
        if enabled:
            self.tx.kick()
        self.client.flush(0)

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        return self.registers.read_window(offset, length)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        self.registers.write_window(offset, data)
        if self.rx.waits:  # there may be room: no register says that the driver gave a descriptor back
            self.client.flush(0)

    # --- Registers ---

    def _serve_registers(self) -> None:
        rx, tx, link, timer = self.rx, self.tx, self.link, self.timer
        read, write = self.registers.readers, self.registers.writers
        for number in range(4):
            read[r.TSD + 4 * number] = partial(self._read_status, number)
            write[r.TSD + 4 * number] = partial(self._write_status, number)
            read[r.TSADR + 4 * number] = partial(self._read_address, number)
            write[r.TSADR + 4 * number] = partial(self._write_address, number)
        read.update(
            {
                r.RBSTART: lambda: rx.start,
                r.CR: lambda: self.command | r.CR_BUFE * rx.empty,
                r.CAPR: lambda: rx.read_pointer,
                r.CBR: lambda: rx.write_pointer,
                r.IMR: lambda: self.interrupts.mask,
                r.ISR: lambda: self.interrupts.status,
                r.TCR: lambda: tx.config,
                r.RCR: lambda: rx.config,
                r.TCTR: lambda: timer.count,
                r.MPC: lambda: rx.missed,
                r.CR9346: self.eeprom.read,
                r.TIMERINT: lambda: timer.compare,
                r.MSR: link.read_media,
                r.HLTCLK: lambda: int(self._clock),
                r.TSAD: tx.summary,
                r.BMCR: lambda: link.control,
                r.BMSR: link.read_status,
                r.ANAR: lambda: link.advertised,
                r.ANLPAR: lambda: link.partner,
                r.ANER: lambda: link.expansion,
                r.CPCR: lambda: self.plus_command,
                r.RDSAR: lambda: rx.ring_base & _WORD,
                r.RDSAR + 4: lambda: rx.ring_base >> 32,
            }
        )
        write.update(
            {
                r.IDR + 5: self._mac_written,
                r.RBSTART: self._write_start,
                r.CR: self._write_command,
                r.CAPR: self._write_read_pointer,
                r.IMR: self.interrupts.write_mask,
                r.ISR: self.interrupts.write_status,
                r.TCR: tx.write_config,
                r.RCR: self._write_receive_config,
                r.TCTR: timer.write_count,
                r.MPC: self._clear_missed,
                r.CR9346: self._write_9346,
                r.TIMERINT: timer.write_compare,
                r.HLTCLK: self._write_clock,
                r.BMCR: link.write_control,
                r.BMSR: link.write_status,
                r.ANAR: link.write_advertised,
                r.ANER: link.write_expansion,
                r.TPPOLL: self._poll,
                r.CPCR: self._write_plus_command,
                r.RDSAR: partial(self._write_ring_base, 0),
                r.RDSAR + 4: partial(self._write_ring_base, 32),
            }
        )

    def _reset(self) -> None:
        """By CR.RST, 9346CR's auto-load, or the bus: all but the link and the EEPROM."""
        self.registers.reset()
        mac = self.eeprom.mac
        self.registers.values.update({r.IDR + at: byte for at, byte in enumerate(mac)})
        self.show_mac(mac)
        self.command, self.plus_command, self._plus = r.CR_RESET, 0, False
        self._clock, self._dump = True, 0
        self.link.reset()
        self.eeprom.reset()
        self.timer.reset()
        self.tally.reset()
        self.rings.drop()
        self.rx.reset()
        self.tx.reset()
        self.interrupts.reset()
        self._show_driver()
        self.client.report.interrupt_acknowledged()
        # No sender may wait for a receiver that is off, and the next guest must not get these frames.
        self.client.purge(0)

    def _mac_written(self, _value: int) -> None:
        """QEMU shows the address in `info network` once its last byte is written."""
        self.show_mac(self.registers.bytes_at(r.IDR, 6))

    def _write_command(self, value: int) -> None:
        if value & r.CR_RESET:
            self._reset()
        self.command = value & (r.CR_RE | r.CR_TE)
        if value & r.CR_RE:
            self.rx.enable()
        if value & r.CR_TE:
            self.tx.enable()
        self.rings.restart()
        self._show_driver()
        self.client.flush(0)  # to the guest, or dropped if the receiver is off

    def _show_driver(self) -> None:
        """The receiver is on while the guest has the interface up. Its driver enables bus mastering as long as it is
        bound to the card."""
        on = bool(self.command & r.CR_RE)
        self.client.report.driver_ok(on, admin_down=self.bus_master and not on)

    def _write_plus_command(self, value: int) -> None:
        self._plus = True
        self.plus_command = value & PLUS_WRITABLE
        self.rings.restart()

    def _write_9346(self, value: int) -> None:
        if self.eeprom.write(value):
            self._reset()

    def _write_clock(self, value: int) -> None:
        if value in (_CLOCK_RUN, _CLOCK_HALT):
            self._clock = value == _CLOCK_RUN
            self.client.flush(0)

    def _write_start(self, value: int) -> None:
        self.rx.start = value

    def _write_receive_config(self, value: int) -> None:
        self.rx.write_config(value)
        self.client.flush(0)

    def _write_read_pointer(self, value: int) -> None:
        self.rx.write_read_pointer(value)
        self.client.flush(0)

    def _clear_missed(self, _value: int) -> None:
        self.rx.missed = 0

    def _write_ring_base(self, shift: int, value: int) -> None:
        self.rx.ring_base = self.rx.ring_base & ~(_WORD << shift) | value << shift
        self.rings.restart()

    def _read_status(self, number: int) -> int:
        if not self._plus:
            return self.tx.status[number]
        return self._dump >> 32 * number & _WORD

    def _write_status(self, number: int, value: int) -> None:
        """TSD, or DTCCR in C+ mode."""
        if not self._plus:
            self.tx.write_status(number, value)
        elif number < 2:
            shift = 32 * number
            self._dump = self._dump & ~(_WORD << shift) | value << shift
            if not number and value & _DUMP:
                self._dump_tally()

    def _dump_tally(self) -> None:
        try:
            self.dma.write(self._dump & ~_DUMP_ALIGNMENT, self.tally.dump())
        except GuestMemoryError as error:
            self.bus_error("DTCCR", error)
        self.rings.after_writes(self._dumped, _DUMP)

    def _dumped(self, bit: int) -> None:
        self._dump &= ~bit
        self.touched()

    def _read_address(self, number: int) -> int:
        return self.tx.addresses[number]

    def _write_address(self, number: int, value: int) -> None:
        self.tx.write_address(number, value)
        if self._plus:
            self.rings.restart()

    def _poll(self, value: int) -> None:
        """TPPOLL (§6.32)."""
        if value & _POLL_NORMAL:
            self.tx.kick()
        if value & _POLL_HIGH:
            self.complain("TPPOLL.HPQ", "the ring of high priority is not supported; its frames are not sent")
        if value & _POLL_SOFTWARE_INTERRUPT:
            self.interrupts.set(r.SOFTWARE)

    # --- Interrupts and the journal ---

    def _timer_expired(self) -> None:
        if self._clock:
            self.touched()
            self.interrupts.set(r.TIMEOUT)

    def _drive_pin(self, pending: int) -> None:
        level = pending != 0
        if level != self.intx:
            self.set_intx(level)
            self.touched()
        report = self.client.report
        if report.interrupt_owed:
            if pending & r.LINK_CHANGE:
                report.interrupted()
            elif not self.interrupts.status & r.LINK_CHANGE:
                report.interrupt_acknowledged()

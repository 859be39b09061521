"""The Am79C970A as a PCI device: its two windows, resets, the initialization block, interrupts and the link.

An attachment serves it as a `PciDevice`; the Network knows it as an `Endpoint`. How the guest learns of its link:
`link_status_changed` → `LinkStatus.up` → nothing, until the guest polls an LED's register → `LinkStatus.read_led`.
"""

from __future__ import annotations

from array import array
from functools import partial
from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.net.queue import Frame
from vnic.nic.pci_nic import PciNic
from vnic.nic.pcnet import registers as r
from vnic.nic.pcnet.block import block_plan, read_block
from vnic.nic.pcnet.descriptors import LANCE_STYLE, STYLES
from vnic.nic.pcnet.link import LED_REGISTERS, LinkStatus
from vnic.nic.pcnet.record import APROM_BYTES, PcnetRecord
from vnic.nic.pcnet.registers import Registers
from vnic.nic.pcnet.rx import Receiver
from vnic.nic.pcnet.tx import Transmitter
from vnic.nic.turns import Polling
from vnic.pci.bar import Bar
from vnic.pci.config import STATUS, PciId
from vnic.pci.device import PciHandles
from vnic.record import require, within

_AMD: Final = 0x1022
_LANCE: Final = 0x2000
_REVISION: Final = 0x10
_STATUS: Final = 0x0280  # fast back-to-back, DEVSEL medium
_MIN_GNT: Final = 0x3E
_GRANTS: Final = 0xFF06  # MIN_GNT and MAX_LAT
_WINDOW_BYTES: Final = 32

# The window (data sheet, "I/O Map in Word I/O Mode" and "in DWord I/O Mode"): 16 bytes of address PROM, then these
# four, of 16 bits, or after a write of 32 bits to the first of them of 32 bits.
_RDP, _RAP, _RESET, _BDP = range(4)
_PORTS: Final = 0x10

POLL_SECONDS: Final = 65536 / 33e6
"""How often the chip polls its rings: as CSR47 is after a reset, by a PCI clock of 33 MHz."""


class Pcnet(PciNic):
    """One NIC."""

    record = PcnetRecord
    cells_wanted = r.COUNT
    link_lag_seconds = 3.1
    """Linux's pcnet32 polls the link every 2 s, rounded to a whole second."""

    def __init__(self) -> None:
        super().__init__(
            "pcnet",
            PciId(_AMD, _LANCE, 0, 0, revision=_REVISION),
            [Bar(0, _WINDOW_BYTES, io=True), Bar(1, _WINDOW_BYTES)],
        )
        self.config.set(STATUS, 2, _STATUS)
        self.config.set(_MIN_GNT, 2, _GRANTS)
        self.registers = Registers()
        self._aprom = bytearray(APROM_BYTES)
        self.link = LinkStatus(lambda up: self.client.report.seen(up))
        self.rx = Receiver(self)
        self.tx = Transmitter(self)
        self._polling = Polling(
            lambda: self.scheduler, POLL_SECONDS, lambda: self.rx.waits or self._polls_tx, self._poll
        )
        self.registers.hard_reset()

    # --- Endpoint: the Network's side ---

    def start(self) -> None:
        self.show_mac(self.client.mac)
        self.link.up = self.client.link_up
        self._hard_reset()

    def link_status_changed(self) -> None:
        """QEMU's pcnet_set_link_status: nothing tells the guest."""
        up = self.link.up = self.client.link_up
        self.touched()
        self.client.report.notified(up, interrupts=False)
        self.flush()  # frames that wait for a descriptor are dropped with the link
        if not up:
            self.tx.turns.resume()  # the ring does not wait for a peer while the wire is down

    def link_shown(self) -> bool:
        return self.link.up

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        return self.rx.receive(frame)

    def overrun(self, queue: int) -> None:
        if self.rx.enabled:
            self.rx.missed()

    def sent(self, queue: int) -> None:
        self.tx.turns.resume()

    def cleanup(self) -> None:
        self.tx.turns.cancel()
        self._polling.cancel()

    # --- State apart from handles ---

    def save(self) -> PcnetRecord:
        values = self.registers.cells.tolist()
        return PcnetRecord(
            **self.save_nic(), registers=values, aprom=bytes(self._aprom), link_up=self.link.up
        )

    def restore(self, record: PcnetRecord, handles: PciHandles) -> None:
        with within("function"):
            self.check_function(record.function)
        saved = Registers()
        saved.cells[:] = array("Q", record.registers)
        require(saved.asserted == record.function.intx, "registers", "do not go with the pin's level")
        if handles.cells is not None:
            r.check(handles.cells, "cells")
        self.restore_nic(record, handles)
        self.registers.cells[:] = saved.cells
        self._aprom[:] = record.aprom
        self.link.up = record.link_up
        if handles.cells is not None:
            # The process before was killed, and its cells are newer. Interrupts of which it may not have told are set
            # again: the guest finds nothing to do, or what it would have missed.
            cells = self.registers.cells = handles.cells
            self.rx.take_up()
            self.tx.take_up()
            cells[0] |= r.RINT * bool(cells[0] & r.RXON) | r.TINT * bool(cells[0] & r.TXON)
            self.set_intx(self.registers.asserted)
        self.resume()
        if self.registers.cells[r.PENDING] & r.INIT:
            self._read_block()
        if self.registers.cells[0] & r.TDMD:
            self.tx.turns.later()
        self.poll_later()

    def use_cells(self, cells: memoryview) -> None:
        cells[:] = self.registers.cells
        self.registers.cells = cells

    # --- What the units need ---

    def interrupt(self, causes: int) -> None:
        self.rings.after_writes(self._set_causes, causes)

    def transmit(self, frame: bytes) -> bool:
        if self.registers.cells[r.MODE] & r.LOOP:
            return self.rx.receive(frame, looped=True)
        return self.client.send(0, frame)

    def flush(self) -> None:
        self.client.flush(0)

    def bus_error(self, unit: str, error: GuestMemoryError) -> None:
        super().bus_error(unit, error)
        self.registers.cells[r.EXTENDED] |= r.SINT
        self._drive_pin()

    # --- PciDevice: the VM's side ---

    def device_reset(self) -> None:
        self._hard_reset()

    def bus_master_changed(self, enabled: bool) -> None:
        self._show_driver()
        self.tx.demand()
        self.flush()

    def dma_mapped(self, addr: int, size: int) -> None:
        super().dma_mapped(addr, size)
        self.rx.known = self.tx.known = 0
        self._polling.now()

    def is_hot(self, region: int, offset: int, length: int) -> bool:
        return offset >= _PORTS

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        if offset < _PORTS:
            return bytes(self._aprom[offset : offset + length]).ljust(length, b"\xff")
        value = 0xFFFF_FFFF
        width = self._width
        if length == width and not offset % width:
            value = self._read_port((offset - _PORTS) // width, width)
        return (value & (1 << 8 * length) - 1).to_bytes(length, "little")

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        length = len(data)
        if offset < _PORTS:
            if self.registers.cells[r.BCR + r.MC] & r.APROMWE:
                part = data[: APROM_BYTES - offset]
                self._aprom[offset : offset + len(part)] = part
            return
        width = self._width
        if length == width and not offset % width:
            self._write_port((offset - _PORTS) // width, int.from_bytes(data[:2], "little"))
        elif length == 4 and offset == _PORTS:
            self.registers.cells[r.BCR + r.BSBC] |= r.DWIO

    @property
    def _width(self) -> int:
        """The bytes of an access to a port."""
        return 4 if self.registers.cells[r.BCR + r.BSBC] & r.DWIO else 2

    def _read_port(self, port: int, width: int) -> int:
        rap = self.registers.cells[r.RAP]
        if port == _RDP:
            if rap == r.CHIP_ID and width == 4:
                return self.registers.address(r.CHIP_ID)
            return self._read_csr(rap)
        if port == _RAP:
            return rap
        if port == _BDP:
            return self._read_bcr(rap)
        if port == _RESET:
            self._soft_reset()
            return 0
        return 0xFFFF_FFFF

    def _write_port(self, port: int, value: int) -> None:
        rap = self.registers.cells[r.RAP]
        if port == _RDP:
            self._write_csr(rap, value)
        elif port == _RAP:
            self.registers.cells[r.RAP] = value % r.CSRS
        elif port == _BDP:
            self._write_bcr(rap, value)

    # --- Registers ---

    def _read_csr(self, number: int) -> int:
        number = r.ALIASES.get(number, number)
        return self.registers.cells[number] if number else self.registers.status()

    def _read_bcr(self, number: int) -> int:
        value = self.registers.cells[r.BCR + number] if number < r.BCRS else 0
        return self.link.read_led(value) if number in LED_REGISTERS else value

    def _write_csr(self, number: int, value: int) -> None:
        cells = self.registers.cells
        number = r.ALIASES.get(number, number)
        if number == 0:
            self._write_csr0(value)
        elif number == r.MASKS:
            cells[number] = value
            if value & r.BSWP:
                self.complain("CSR3.BSWP", "the bytes of buffers are not swapped")
        elif number == r.FEATURES:
            kept = cells[number] & ~value & r.CSR4_CLEARED | r.UINT * bool(value & r.UINTCMD)
            cells[number] = value & ~(r.CSR4_CLEARED | r.UINTCMD) | kept
        elif number == r.EXTENDED:
            cells[number] = value & ~r.CSR5_CLEARED | cells[number] & ~value & r.CSR5_CLEARED
            if not value & r.SPND:
                self.tx.demand()
        elif number == r.BCR + r.SWS:
            self._write_bcr(r.SWS, value)
        elif number in r.CSRS_OF_A_STOPPED_CHIP and self.registers.idle:
            cells[number] = value
        self._drive_pin()
        self._polling.now()

    def _write_bcr(self, number: int, value: int) -> None:
        if number not in r.BCRS_WRITTEN:
            return
        if number == r.SWS:
            if not self.registers.idle:
                return
            style = value & 0xFF if value & 0xFF in STYLES else LANCE_STYLE
            # CSRPCNET and SSIZE32 follow from the style.
            value = value & 0xFC00 | (0x0200, r.SSIZE32, 0x0300, 0x0300)[style] | style
        self.registers.cells[r.BCR + number] = value

    def _write_csr0(self, value: int) -> None:
        cells = self.registers.cells
        cells[0] = cells[0] & ~(value & r.CSR0_CLEARED | r.INEA) | value & (r.INEA | r.TDMD)
        asked = value & (r.INIT | r.STRT | r.STOP)
        if asked & r.STOP:
            self._stop()
        if asked == r.INIT | r.STRT | r.STOP:
            return  # STOP overrides the others
        if asked & r.INIT and not cells[0] & r.INIT:
            cells[r.PENDING] = r.INIT
            cells[0] = cells[0] & ~r.STOP | r.INIT
            self._read_block()
        if asked & r.STRT and not cells[0] & r.STRT:
            self._start()
        if cells[0] & r.TDMD:
            cells[r.DEMANDED] = 1
            self.tx.demand()

    # --- Life ---

    def _hard_reset(self) -> None:
        """H_RESET: everything, the PROM read anew. A link that is down stays down."""
        prom = self.client.mac + bytes((0, 0, 0, 0x11, 0, 0, 0, 0)) + b"WW"
        self._aprom[:] = prom[:12] + sum(prom).to_bytes(2, "little") + prom[14:]
        self.registers.hard_reset()
        self._soft_reset()

    def _soft_reset(self) -> None:
        self.registers.soft_reset()
        for at in range(3):
            self.registers.cells[r.PADR + at] = int.from_bytes(self._aprom[2 * at : 2 * at + 2], "little")
        self._forget_rings()

    def _stop(self) -> None:
        cells = self.registers.cells
        cells[r.PENDING] = cells[r.DEMANDED] = 0
        cells[r.FEATURES] &= ~(r.MFCO | r.UINT | 0x0002)
        cells[r.EXTENDED] &= ~(0x0010 | r.SPND)
        cells[0] = r.STOP
        self._forget_rings()

    def _forget_rings(self) -> None:
        """The chip has stopped."""
        if self.shadow is not None:
            self.shadow.drop()
        self.rx.reset()
        self.tx.reset()
        self._polling.cancel()
        self._drive_pin()
        self._show_driver()
        self.client.purge(0)  # no sender may wait for a receiver that is off

    def _read_block(self) -> None:
        self.fetch("INIT", partial(block_plan, self.registers), self._initialize)

    def _initialize(self) -> None:
        """The initialization block is here."""
        cells = self.registers.cells
        try:
            receive, transmit = read_block(self.registers, self.dma)
        except GuestMemoryError as error:
            cells[r.PENDING] = 0
            self.bus_error("INIT", error)
            return
        self.rx.ring.set_up(*receive)
        self.tx.ring.set_up(*transmit)
        self.rx.reset()
        self.tx.reset()
        self._set_causes(r.IDON)
        if cells[r.PENDING] & r.STRT:
            self._start()
        cells[r.PENDING] = 0

    def _start(self) -> None:
        """CSR0.STRT: receive and transmit."""
        cells = self.registers.cells
        if cells[r.PENDING] == r.INIT:
            cells[r.PENDING] |= r.STRT  # once the block is read
            return
        mode = cells[r.MODE]
        on = r.TXON * (not mode & r.DTX) | r.RXON * (not mode & r.DRX)
        cells[0] = cells[0] & ~r.STOP | r.STRT | on
        self._show_driver()
        self.flush()
        self.poll_later()

    def _show_driver(self) -> None:
        """The receiver is on while the guest has the interface up. Its driver enables bus mastering as long as it is
        bound to the card."""
        on = self.rx.enabled
        self.client.report.driver_ok(on, admin_down=self.bus_master and not on)

    # --- Polling ---

    def poll_later(self) -> None:
        self._polling.begin()

    @property
    def _polls_tx(self) -> bool:
        """Whether the chip has to look for frames to be sent: its driver does not demand transmission itself."""
        cells = self.registers.cells
        return self.tx.enabled and not cells[r.FEATURES] & r.DPOLL and not cells[r.DEMANDED]

    def _poll(self) -> None:
        if self.rx.waits:
            self.rx.offer()
        if self._polls_tx:
            self.tx.demand()

    # --- Interrupts ---

    def _set_causes(self, causes: int) -> None:
        self.registers.cells[0] |= causes
        self._drive_pin()

    def _drive_pin(self) -> None:
        level = self.registers.asserted
        if level != self.intx:
            self.set_intx(level)

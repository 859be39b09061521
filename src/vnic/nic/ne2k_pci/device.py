"""The RTL8029 as a PCI device: the DP8390's registers behind an I/O window, its rings of pages, and the interrupt.

All data passes through the window; the chip accesses no memory of the guest. How the guest learns of its link:
`link.py` says why it does not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from vnic.net.clock import Timer
from vnic.net.queue import Frame
from vnic.nic.multicast import multicast_index
from vnic.nic.ne2k_pci import registers as r
from vnic.nic.ne2k_pci.link import CONFIG2_10BASE_T, CONFIG3_FULL_DUPLEX, SHOWS_LINK
from vnic.nic.ne2k_pci.memory import CELLS, END, START, CardMemory
from vnic.nic.ne2k_pci.record import Ne2kPciRecord
from vnic.nic.pci_nic import PciNic
from vnic.pci.bar import Bar
from vnic.pci.config import PciId
from vnic.pci.device import PciHandles
from vnic.record import require, within

_VENDOR: Final = 0x10EC
_DEVICE: Final = 0x8029
_SUBSYSTEM_VENDOR: Final = 0x1AF4
_SUBSYSTEM: Final = 0x1100

_HEADER: Final = struct.Struct("<BBH")  # status, next page, length with the header
_CRC_BYTES: Final = 4
_MIN_BYTES: Final = 60
_MAX_BYTES: Final = 1518  # with a VLAN tag, without CRC
_ETH_BYTES: Final = 14
_MAX_ACCESS_BYTES: Final = 64
_EVERYONE: Final = b"\xff" * 6
_STATE: Final = tuple(
    name
    for name in Ne2kPciRecord.__struct_fields__
    if name not in ("function", "info_mac", "complaints", "memory")
)


class Ne2kPci(PciNic):
    """One NIC. Its registers have the names of the record's fields."""

    record = Ne2kPciRecord
    cells_wanted = CELLS
    shows_link = SHOWS_LINK

    def __init__(self) -> None:
        super().__init__(
            "ne2k_pci",
            PciId(_VENDOR, _DEVICE, _SUBSYSTEM_VENDOR, _SUBSYSTEM),
            [Bar(0, r.WINDOW_BYTES, io=True)],
        )
        self._memory_of_card = CardMemory()
        self._in_cells = False
        self._timer: Timer | None = None
        self._clear()

    def _clear(self) -> None:
        """The registers as after power-on."""
        self.command = r.STOP | r.ABORT
        self.page_start = self.page_stop = self.boundary = self.current = 0
        self.transmit_page = self.transmit_count = self.transmit_status = 0
        self.remote_address = self.remote_count = 0
        self.receive_status = self.receive_config = self.transmit_config = self.data_config = 0
        self.interrupt_status, self.interrupt_mask = r.ISR_RESET, 0
        self.missed = 0
        self.physical, self.multicast = bytes(6), bytes(8)
        self.paused = self.waits = False

    # --- Endpoint: the Network's side ---

    def start(self) -> None:
        self._memory_of_card.program(self.client.mac)
        self.show_mac(self.client.mac)
        self._reset()

    def link_status_changed(self) -> None:
        """The guest is not told. Frames that wait are dropped with the link."""
        self.client.flush(0)
        if not self.client.link_up:
            self.sent(0)

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        """Put a frame into the ring of pages. False: no room; offer it again when the driver moves the boundary.
        No OVW: a driver would reset the chip for it, and nothing is lost yet."""
        self.waits = False
        if self.command & r.STOP or not self._accepts(bytes(frame[:6])):
            return True
        data = bytes(frame).ljust(_MIN_BYTES, b"\0")
        first, last = self.page_start, self.page_stop
        sound = START <= first << 8 < last << 8 <= END and first <= self.current < last
        if len(data) > _MAX_BYTES or self.receive_config & r.MONITOR or not sound:
            self.overrun(queue)
            return True
        length = _HEADER.size + len(data)
        pages = -(-(length + _CRC_BYTES) // 256)
        room = (self.boundary - self.current) % (last - first) or last - first
        if pages >= room:
            self.waits = pages < last - first
            if not self.waits:
                self.overrun(queue)  # it never fits
            self.touched()
            return not self.waits
        self.receive_status = r.RSR_OK | r.RSR_GROUP * (data[0] & 1)
        following = first + (self.current - first + pages) % (last - first)
        header = _HEADER.pack(self.receive_status, following, length)
        self._memory_of_card.put(self._pages(pages), header + data)
        self.current = following
        self.interrupt_status |= r.ISR_RX
        self.touched()
        self._drive()
        return True

    def _pages(self, count: int) -> Iterator[int]:
        for at in range(count):
            yield self.page_start + (self.current - self.page_start + at) % (self.page_stop - self.page_start)

    def _accepts(self, destination: bytes) -> bool:
        config = self.receive_config
        if config & r.PROMISCUOUS:
            return True
        if destination == _EVERYONE:
            return bool(config & r.ACCEPT_BROADCAST)
        if destination[0] & 1:
            at = multicast_index(destination)
            return bool(config & r.ACCEPT_MULTICAST and self.multicast[at >> 3] >> (at & 7) & 1)
        return destination == self.physical

    def overrun(self, queue: int) -> None:
        self.missed = min(self.missed + 1, 0xFF)
        self.touched()

    def sent(self, queue: int) -> None:
        if self.paused:
            self.paused = False
            self._later()

    def cleanup(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- State apart from handles ---

    def save(self) -> Ne2kPciRecord:
        state = {name: getattr(self, name) for name in _STATE}
        return Ne2kPciRecord(**self.save_nic(), **state, memory=self._memory_of_card.data)

    def save_kept(self) -> Ne2kPciRecord:
        whole = self.save()
        return msgspec.structs.replace(whole, memory=b"") if self._in_cells else whole

    def restore(self, record: Ne2kPciRecord, handles: PciHandles) -> None:
        """Take the place of the NIC that was saved, after `start`. Raises RecordError, and changes nothing then."""
        with within("function"):
            self.check_function(record.function)
        require(record.memory or handles.cells is not None, "memory", "is missing")
        self.restore_nic(record, handles)
        for name in _STATE:
            setattr(self, name, getattr(record, name))
        if record.memory:
            self._memory_of_card.restore(record.memory)
        if handles.cells is not None:
            self._memory_of_card.use_cells(handles.cells, keep=not record.memory)
            self._in_cells = True
        self.resume()
        self._drive()  # causes are saved before the interrupt is sent
        self._later()

    def use_cells(self, cells: memoryview) -> None:
        self._memory_of_card.use_cells(cells, keep=False)
        self._in_cells = True

    # --- PciDevice: the VM's side ---

    def device_reset(self) -> None:
        self._reset()

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        if length > _MAX_ACCESS_BYTES:
            return bytes(length)
        if offset == r.DATA_PORT:
            step = min(length, 4)
            return b"".join(
                self._read_data(step).to_bytes(step, "little") for _ in range(length // step)
            ).ljust(length)
        return bytes(self._read(at) for at in range(offset, offset + length))

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        if len(data) > _MAX_ACCESS_BYTES:
            return
        if offset == r.DATA_PORT:
            step = min(len(data), 4)
            for at in range(0, len(data) - step + 1, step):
                self._write_data(int.from_bytes(data[at : at + step], "little"), step)
        else:
            for at, byte in enumerate(data, offset):
                self._write(at, byte)

    # --- Registers ---

    def _reset(self) -> None:
        self.cleanup()
        self._clear()
        self._drive()
        self._show_driver()
        # No sender may wait for a receiver that is off, and the next guest must not get these frames.
        self.client.purge(0)

    def _show_driver(self) -> None:
        """The chip runs while the guest has the interface up; whether a driver is there otherwise, nothing tells."""
        self.client.report.driver_ok(not self.command & r.STOP)

    def _read(self, offset: int) -> int:
        if offset == r.RESET_PORT:
            self._reset_port()
            return 0
        if offset > 0x0F:
            return 0xFF
        if offset == r.COMMAND:
            return self.command
        at = offset | (self.command >> r.PAGE_SHIFT) << 4
        if r.PAR0 <= at < r.PAR0 + 6:
            return self.physical[at - r.PAR0]
        if r.MAR0 <= at < r.MAR0 + 8:
            return self.multicast[at - r.MAR0]
        if at == r.CNTR2:
            missed, self.missed = self.missed, 0
            self.touched()
            return missed
        return {
            r.BNRY: self.boundary,
            r.TSR: self.transmit_status,
            r.ISR: self.interrupt_status,
            r.RSAR0: self.remote_address & 0xFF,
            r.RSAR1: self.remote_address >> 8,
            r.ID0: ord("P"),
            r.ID1: ord("C"),
            r.RSR: self.receive_status,
            r.CURR: self.current,
            r.PSTART_READ: self.page_start,
            r.PSTOP_READ: self.page_stop,
            r.CONFIG2: CONFIG2_10BASE_T,
            r.CONFIG3: CONFIG3_FULL_DUPLEX,
        }.get(at, 0)

    def _write(self, offset: int, value: int) -> None:
        if offset == r.RESET_PORT:
            self._reset_port()
        elif offset == r.COMMAND:
            self._write_command(value)
        elif offset <= 0x0F:
            at = offset | (self.command >> r.PAGE_SHIFT) << 4
            if r.PAR0 <= at < r.PAR0 + 6:
                self.physical = _with(self.physical, at - r.PAR0, value)
            elif r.MAR0 <= at < r.MAR0 + 8:
                self.multicast = _with(self.multicast, at - r.MAR0, value)
            elif at in _PLAIN:
                name, shift, mask = _PLAIN[at]
                setattr(self, name, getattr(self, name) & ~(0xFF << shift) & mask | value << shift)
                if at == r.IMR:
                    self._drive()
                elif self.waits:
                    self.client.flush(0)
            elif at == r.ISR:
                self.interrupt_status &= ~(value & r.ISR_INTERRUPTS)
                self._drive()

    def _reset_port(self) -> None:
        """The card's reset: the chip stops, and its registers stay."""
        self.interrupt_status = r.ISR_RESET
        self._drive()
        self.touched()

    def _write_command(self, value: int) -> None:
        self.command = value
        if not value & r.STOP:
            self.interrupt_status &= ~r.ISR_RESET
            if value & (r.REMOTE_READ | r.REMOTE_WRITE) and not self.remote_count:
                self.interrupt_status |= r.ISR_REMOTE_DONE
            self._drive()
            if value & r.TRANSMIT:
                self._later()
        self._show_driver()
        if self.waits:
            self.client.flush(0)  # to the guest, or dropped if the receiver is off

    # --- Remote DMA ---

    def _read_data(self, size: int) -> int:
        width = self._width(size)
        value = self._memory_of_card.read(self.remote_address, width)
        self._moved(width)
        self.touched()
        return value & (1 << 8 * size) - 1

    def _write_data(self, value: int, size: int) -> None:
        if self.remote_count:
            width = self._width(size)
            self._memory_of_card.write(self.remote_address, value, width)
            self._moved(width)

    def _width(self, size: int) -> int:
        """How many bytes an access moves: in word mode two, also where the driver takes one of them (Linux reads the
        PROM so)."""
        return 4 if size == 4 else 2 if self.data_config & r.WORD_TRANSFERS else 1

    def _moved(self, size: int) -> None:
        self.remote_address = self.remote_address + size & 0xFFFF
        if self.remote_address == self.page_stop << 8:
            self.remote_address = self.page_start << 8
        if self.remote_count <= size:
            self.remote_count = 0
            self.interrupt_status |= r.ISR_REMOTE_DONE
            self._drive()
        else:
            self.remote_count -= size

    # --- Transmitting, in a turn of the loop of its own: no process carries it out twice ---

    def _later(self) -> None:
        if self._timer is None:
            self._timer = self.scheduler.call_soon(self._transmit)

    def _transmit(self) -> None:
        self._timer = None
        if self.paused or not self.command & r.TRANSMIT or self.command & r.STOP:
            return
        frame = self._memory_of_card.packet(self.transmit_page << 8, self.transmit_count)
        self.command &= ~r.TRANSMIT
        self.transmit_status = r.TSR_OK
        self.interrupt_status |= r.ISR_TX
        self.keep_record()  # killed from here on, the frame is sent by no other process
        if frame is None:
            self.complain(
                "TX", f"page {self.transmit_page:#x} and {self.transmit_count} bytes are not in the memory"
            )
        elif len(frame) >= _ETH_BYTES and not self.transmit_config & r.LOOPBACK:
            self.paused = not self.client.send(0, frame.ljust(_MIN_BYTES, b"\0"))
        self._drive()

    # --- The interrupt ---

    def _drive(self) -> None:
        level = bool(self.interrupt_status & self.interrupt_mask & r.ISR_INTERRUPTS)
        if level != self.intx:
            self.set_intx(level)


def _with(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes((value,)) + data[at + 1 :]


_PLAIN: Final = {
    r.PSTART: ("page_start", 0, 0xFF),
    r.PSTOP: ("page_stop", 0, 0xFF),
    r.BNRY: ("boundary", 0, 0xFF),
    r.TPSR: ("transmit_page", 0, 0xFF),
    r.TBCR0: ("transmit_count", 0, 0xFFFF),
    r.TBCR1: ("transmit_count", 8, 0xFFFF),
    r.RSAR0: ("remote_address", 0, 0xFFFF),
    r.RSAR1: ("remote_address", 8, 0xFFFF),
    r.RBCR0: ("remote_count", 0, 0xFFFF),
    r.RBCR1: ("remote_count", 8, 0xFFFF),
    r.RCR: ("receive_config", 0, 0xFF),
    r.TCR: ("transmit_config", 0, 0xFF),
    r.DCR: ("data_config", 0, 0xFF),
    r.IMR: ("interrupt_mask", 0, 0xFF),
    r.CURR: ("current", 0, 0xFF),
}
"""Registers that a write only stores: the attribute, and which byte of it."""

"""A guest with an NE2000 driver, in the order of Linux's ne2k-pci and 8390: ring of pages, remote DMA, an interrupt."""

from __future__ import annotations

import struct

from tests.fakes.irq import FakeIrq

from vnic.memory.guest import GuestMemory
from vnic.nic.ne2k_pci import Ne2kPci
from vnic.nic.ne2k_pci import registers as r

TX_PAGE, RX_START, RX_STOP = 0x40, 0x4C, 0x80
START = 0x02
CAUSES = 0x3F
RCR = r.ACCEPT_BROADCAST | r.ACCEPT_MULTICAST


class Ne2kDriver:
    """The guest."""

    def __init__(self, device: Ne2kPci) -> None:
        self.device = device
        self.irq = FakeIrq()
        self.memory = GuestMemory()
        device.plug(self.irq, self.memory)

    def close(self) -> None:
        self.device.unplug(self.memory.close)

    def read(self, offset: int, size: int = 1) -> int:
        return int.from_bytes(self.device.window_read(0, offset & 0x1F, size), "little")

    def write(self, offset: int, value: int, size: int = 1) -> None:
        """Of page 0; another page's offset chooses it."""
        page = offset >> 4 if offset < 0x40 and offset not in (r.DATA_PORT, r.RESET_PORT) else 0
        at = offset & 0xF if page else offset
        if page:
            self.page(page)
        self.device.window_write(0, at, value.to_bytes(size, "little"))
        if page:
            self.page(0)

    def page(self, number: int) -> None:
        self.device.window_write(0, r.COMMAND, bytes((r.ABORT | START | number << r.PAGE_SHIFT,)))

    def read_page(self, offset: int) -> int:
        self.page(offset >> 4)
        value = self.read(offset & 0xF)
        self.page(0)
        return value

    # --- Remote DMA ---

    def _remote(self, address: int, length: int, command: int) -> None:
        self.write(r.RBCR0, length & 0xFF)
        self.write(r.RBCR1, length >> 8)
        self.write(r.RSAR0, address & 0xFF)
        self.write(r.RSAR1, address >> 8)
        self.write(r.COMMAND, START | command)

    def fetch(self, address: int, length: int, size: int = 4) -> bytes:
        self._remote(address, length, r.REMOTE_READ)
        words = -(-length // size)
        data = b"".join(self.read(r.DATA_PORT, size).to_bytes(size, "little") for _ in range(words))
        assert self.read(r.ISR) & r.ISR_REMOTE_DONE
        self.write(r.ISR, r.ISR_REMOTE_DONE)
        return data[:length]

    def store(self, address: int, data: bytes, size: int = 4) -> None:
        data = data.ljust(-(-len(data) // size) * size, b"\0")
        self._remote(address, len(data), r.REMOTE_WRITE)
        for at in range(0, len(data), size):
            self.write(r.DATA_PORT, int.from_bytes(data[at : at + size], "little"), size)
        assert self.read(r.ISR) & r.ISR_REMOTE_DONE
        self.write(r.ISR, r.ISR_REMOTE_DONE)

    # --- Life ---

    def probe(self) -> bytes:
        """Reset and identify; returns the MAC of the PROM."""
        self.write(r.RESET_PORT, self.read(r.RESET_PORT))
        assert self.read(r.ISR) & r.ISR_RESET
        self.write(r.ISR, 0xFF)
        self.write(r.DCR, 0x49)
        self._remote(0, 32, r.REMOTE_READ)
        prom = bytes(self.read(r.DATA_PORT) for _ in range(32))  # the lower byte of each word
        assert prom[14:16] == b"WW"
        self.write(r.ISR, r.ISR_REMOTE_DONE)
        return prom[:6]

    def start(self, mac: bytes, rcr: int = RCR) -> None:
        self.write(r.COMMAND, r.ABORT | r.STOP)
        self.write(r.DCR, 0x49)
        for at, value in ((r.PSTART, RX_START), (r.PSTOP, RX_STOP), (r.BNRY, RX_START)):
            self.write(at, value)
        for at, byte in enumerate(mac):
            self.write(r.PAR0 + at, byte)
        for at in range(8):
            self.write(r.MAR0 + at, 0xFF)
        self.write(r.CURR, RX_START + 1)
        self.write(r.ISR, 0xFF)
        self.write(r.IMR, CAUSES)
        self.write(r.COMMAND, r.ABORT | START)
        self.write(r.TCR, 0)
        self.write(r.RCR, rcr)

    def send(self, frame: bytes) -> None:
        self.store(TX_PAGE << 8, frame)
        self.write(r.TPSR, TX_PAGE)
        self.write(r.TBCR0, len(frame) & 0xFF)
        self.write(r.TBCR1, len(frame) >> 8)
        self.write(r.COMMAND, r.ABORT | START | r.TRANSMIT)

    def handle_interrupt(self) -> int:
        cause = self.read(r.ISR)
        self.write(r.ISR, cause)
        return cause

    def received(self) -> list[bytes]:
        """What was received since the last call, as Linux's ei_receive takes it."""
        frames: list[bytes] = []
        while True:
            page = self.read(r.BNRY) + 1
            page = RX_START if page >= RX_STOP else page
            if page == self.read_page(r.CURR):
                return frames
            status, following, length = struct.unpack("<BBH", self.fetch(page << 8, 4))
            assert status & r.RSR_OK
            frames.append(self.fetch((page << 8) + 4, length - 4))
            self.write(r.BNRY, following - 1 if following > RX_START else RX_STOP - 1)

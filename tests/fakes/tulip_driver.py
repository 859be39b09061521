"""A guest with a 21143 driver: real memory, real lists, registers through the device's window, an interrupt line.

It follows Linux's tulip: the SROM and the PHY bit by bit, a setup frame, a ring to receive and a ring to send.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.fakes.irq import FakeIrq

from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.nic.tulip import Tulip
from vnic.pci import config

MEMORY_BYTES = 1 << 20
TX_RING, RX_RING, SETUP = GUEST_ADDR, GUEST_ADDR + 0x4000, GUEST_ADDR + 0x8000
TX_BUFFERS, RX_BUFFERS = GUEST_ADDR + 0x10000, GUEST_ADDR + 0x80000
RING = 16
BUFFER_BYTES = 1536
IO, MMIO = 0, 1

OWN = 1 << 31
END, CHAINED = 1 << 25, 1 << 24
IC, LS, FS, SET = 1 << 31, 1 << 30, 1 << 29, 1 << 27
INTERRUPTS = 0x0801FBFF
TI, RI, RU, LNF, LNP, LC = 1 << 0, 1 << 6, 1 << 7, 1 << 12, 1 << 4, 1 << 27
MII_MODE = 0x020E0000
SIA_MODE = 0x82420000
RX_ON, TX_ON = 1 << 1, 1 << 13


class TulipDriver:
    """The guest. `close` frees its memory."""

    def __init__(self, device: Tulip, *, chained: bool = False, region: int = MMIO) -> None:
        self.device = device
        self.chained, self.region = chained, region
        self.irq = FakeIrq()
        self.memory = FakeGuestMemory(MEMORY_BYTES)
        self.tx_next = self.rx_next = 0
        self.served = self.memory.served()
        device.plug(self.irq, self.served)

    def close(self) -> None:
        self.device.unplug(self.memory.close)

    before_access: Callable[[], None] | None = None
    """What a test does before each access to a register."""

    def read(self, number: int) -> int:
        if self.before_access is not None:
            self.before_access()
        return int.from_bytes(self.device.window_read(self.region, 8 * number, 4), "little")

    def write(self, number: int, value: int) -> None:
        if self.before_access is not None:
            self.before_access()
        self.device.window_write(self.region, 8 * number, value.to_bytes(4, "little"))

    def interrupted(self) -> bool:
        """The level of the pin."""
        return self.irq.level

    def bus_master(self, enabled: bool = True) -> None:
        command = config.COMMAND_IO | config.COMMAND_MEMORY | (config.COMMAND_MASTER if enabled else 0)
        self.device.config_write(config.COMMAND, command.to_bytes(2, "little"))

    def srom_word(self, address: int) -> int:
        """As tulip_read_eeprom."""
        enable, cs, sk, di, do = 0x4800, 1, 2, 4, 8
        self.write(9, enable)
        self.write(9, enable | cs)
        word = 0
        for bit in f"110{address:06b}":
            self.write(9, enable | cs | di * int(bit))
            self.write(9, enable | cs | di * int(bit) | sk)
        self.write(9, enable | cs)
        for _ in range(16):
            self.write(9, enable | cs | sk)
            word = word << 1 | bool(self.read(9) & do)
            self.write(9, enable | cs)
        self.write(9, enable)
        return word

    def mii_read(self, phy: int, register: int) -> int:
        """As tulip_mdio_read."""
        for _ in range(33):
            self._mdio(1)
        for bit in f"{0xF6 << 10 | phy << 5 | register:020b}"[-16:]:
            self._mdio(int(bit))
        found = 0
        for _ in range(19):
            self.write(9, 0x40000)
            found = found << 1 | bool(self.read(9) & 0x80000)
            self.write(9, 0x50000)
        return found >> 1 & 0xFFFF

    def mii_write(self, phy: int, register: int, value: int) -> None:
        """As tulip_mdio_write."""
        for _ in range(32):
            self._mdio(1)
        for bit in f"{0x5002 << 16 | phy << 23 | register << 18 | value:032b}":
            self._mdio(int(bit))
        for _ in range(2):
            self.write(9, 0x40000)
            self.write(9, 0x50000)

    def _mdio(self, bit: int) -> None:
        self.write(9, 0x20000 * bit)
        self.write(9, 0x20000 * bit | 0x10000)

    # --- Life ---

    def start(
        self, mode: int = MII_MODE, *, addresses: tuple[bytes, ...] = (), kind: int = 0, csr0: int = 0
    ) -> None:
        """Reset, set up both lists, load the filter, and enable all."""
        self.bus_master()
        self.write(0, 1)
        self.write(0, csr0)
        self.tx_next = self.rx_next = 0
        self.memory.write(TX_RING, bytes(16 * RING))
        for index in range(RING):
            self.give(index)
        self.write(3, RX_RING)
        self.write(4, TX_RING)
        self.write(7, INTERRUPTS)
        self.write(6, mode | TX_ON)
        self.setup(*addresses, kind=kind)
        self.write(6, mode | TX_ON | RX_ON)
        self.write(2, 0)

    def setup(self, *addresses: bytes, kind: int = 0) -> None:
        own = struct.pack("<3H", *(self.srom_word(10 + at) for at in range(3)))
        table = [b"\xff" * 6] * (15 - len(addresses)) + list(addresses) + [own]
        halves = b"".join(table)
        self.memory.write(SETUP, b"".join(halves[at : at + 2] * 2 for at in range(0, 96, 2)))
        self.put(TX_RING, self.tx_next, SETUP, 192, SET | kind, OWN)
        self.tx_next = (self.tx_next + 1) % RING
        self.write(1, 0)

    def put(self, ring: int, index: int, address: int, length: int, control: int, status: int) -> None:
        end = END * (index == RING - 1)
        second = ring + 16 * ((index + 1) % RING) if self.chained else 0
        control |= length | end | CHAINED * self.chained
        self.memory.write(ring + 16 * index, struct.pack("<IIII", status, control, address, second))

    def status(self, ring: int, index: int) -> int:
        return int.from_bytes(self.memory.read(ring + 16 * index, 4), "little")

    # --- Frames ---

    def piece(self, data: bytes, control: int) -> None:
        """Put one descriptor, without a word to the chip."""
        at = TX_BUFFERS + self.tx_next * 4096
        self.memory.write(at, data)
        self.put(TX_RING, self.tx_next, at, len(data), control, OWN)
        self.tx_next = (self.tx_next + 1) % RING

    def send(self, frame: bytes, pieces: int = 1) -> None:
        size = -(-len(frame) // pieces)
        for at in range(0, len(frame), size):
            last = at + size >= len(frame)
            self.piece(frame[at : at + size], FS * (at == 0) | (LS | IC) * last)
        self.write(1, 0)

    def give(self, index: int) -> None:
        self.put(RX_RING, index, RX_BUFFERS + index * BUFFER_BYTES, BUFFER_BYTES, 0, OWN)

    def received(self) -> list[bytes]:
        """The frames received since the last call, without their FCS; their descriptors go back to the chip."""
        frames: list[bytes] = []
        parts = b""
        while True:
            index = self.rx_next
            status = self.status(RX_RING, index)
            if status & OWN:
                assert not parts, "half a frame"
                return frames
            parts += self.memory.read(RX_BUFFERS + index * BUFFER_BYTES, BUFFER_BYTES)
            if status & 1 << 8:
                frames.append(parts[: (status >> 16 & 0x3FFF) - 4])
                parts = b""
            self.give(index)
            self.rx_next = (index + 1) % RING

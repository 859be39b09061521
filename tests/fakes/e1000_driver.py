"""A guest with an e1000 driver: real memory, real rings, registers through the device's windows, an interrupt line.

It follows the order of Linux's driver (reset through the I/O window, EEPROM bit by bit, PHY, rings, interrupts), and
its methods are what tests make the guest do. `handle_interrupt` is the handler; it runs when a test says so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.fakes.irq import FakeIrq

from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.nic.intel import regs
from vnic.nic.intel.registers import IOADDR, IODATA
from vnic.nic.pci_nic import PciNic
from vnic.pci import config

MEMORY_BYTES = 1 << 20
TX_RING, RX_RING = GUEST_ADDR, GUEST_ADDR + 0x4000
TX_BUFFERS, RX_BUFFERS = GUEST_ADDR + 0x8000, GUEST_ADDR + 0x80000
MMIO, IO = 0, 1

EOP, IFCS, RS, DEXT, VLE = 0x01, 0x02, 0x08, 0x20, 0x40
TSE, IC = 0x04, 0x04
IXSM, TXSM = 1, 2
RCTL = 1 << 1 | 1 << 15 | 1 << 26  # enabled, broadcast, strip FCS
TCTL = 1 << 1
LINK_BITS = regs.ICR_LSC
ALL_CAUSES = regs.ICR_LSC | regs.ICR_RXT0 | regs.ICR_RXDMT0 | regs.ICR_TXDW


class E1000Driver:
    """The guest. `close` frees its memory."""

    def __init__(self, device: PciNic, ring_size: int = 16, buffer_bytes: int = 2048) -> None:
        self.device = device
        self.irq = FakeIrq()
        self.memory = FakeGuestMemory(MEMORY_BYTES)
        self.ring_size = ring_size
        self.buffer_bytes = buffer_bytes
        self.tx_tail = 0
        self.rx_next = 0
        self.seen_links: list[bool] = []
        self.served = self.memory.served()
        device.plug(self.irq, self.served)

    def close(self) -> None:
        self.device.unplug(self.memory.close)

    # --- Registers ---

    before_access: Callable[[int], None] | None = None
    """What a test does before each access to a register."""

    def read(self, offset: int) -> int:
        if self.before_access is not None:
            self.before_access(offset)
        return int.from_bytes(self.device.window_read(MMIO, offset, 4), "little")

    def write(self, offset: int, value: int) -> None:
        if self.before_access is not None:
            self.before_access(offset)
        self.device.window_write(MMIO, offset, value.to_bytes(4, "little"))

    def write_io(self, offset: int, value: int) -> None:
        self.device.window_write(IO, IOADDR, offset.to_bytes(4, "little"))
        self.device.window_write(IO, IODATA, value.to_bytes(4, "little"))

    def bus_master(self, enabled: bool = True) -> None:
        command = config.COMMAND_IO | config.COMMAND_MEMORY | (config.COMMAND_MASTER if enabled else 0)
        self.device.config_write(config.COMMAND, command.to_bytes(2, "little"))

    def phy_read(self, number: int) -> int:
        self.write(regs.MDIC, 2 << 26 | 1 << 21 | number << 16)
        answer = self.read(regs.MDIC)
        assert answer & 1 << 28, "MDIC is not ready"
        assert not answer & 1 << 30, f"PHY register {number} cannot be read"
        return answer & 0xFFFF

    def phy_write(self, number: int, value: int) -> None:
        self.write(regs.MDIC, 1 << 26 | 1 << 21 | number << 16 | value)

    def eeprom_word(self, address: int) -> int:
        """Read a word as Linux does: clock in start bit, opcode and address, clock out 16 bits."""
        sk, cs, di, do = 1, 2, 4, 8
        self.write(regs.EECD, 1 << 6)
        self.write(regs.EECD, cs)

        def clock(bit: int) -> int:
            self.write(regs.EECD, cs | (di if bit else 0))
            self.write(regs.EECD, cs | sk | (di if bit else 0))
            value = self.read(regs.EECD) & do
            self.write(regs.EECD, cs | (di if bit else 0))
            return int(bool(value))

        for bit in f"110{address:06b}":
            clock(int(bit))
        word = 0
        for _ in range(16):
            word = word << 1 | clock(0)
        self.write(regs.EECD, 0)
        return word

    # --- Life ---

    def probe(self) -> bytes:
        """Reset and identify; returns the MAC that the EEPROM holds."""
        self.bus_master()
        self.write(regs.IMC, 0xFFFFFFFF)
        self.write_io(regs.CTRL, regs.CTRL_RST)
        words = [self.eeprom_word(at) for at in range(64)]
        assert sum(words) & 0xFFFF == 0xBABA
        return struct.pack("<3H", *words[:3])

    def start(self, rctl: int = RCTL, tctl: int = TCTL, causes: int = ALL_CAUSES) -> None:
        """Set up both rings, give every receive buffer but one to the device, and enable all."""
        self.bus_master()
        length = self.ring_size * 16
        for first, ring in ((regs.TDBAL, TX_RING), (regs.RDBAL, RX_RING)):
            for at, value in ((0, ring), (4, 0), (8, length), (16, 0), (24, 0)):
                self.write(first + at, value)
        self.memory.write(TX_RING, bytes(length))
        for index in range(self.ring_size):
            self._post(index)
        self.tx_tail = self.rx_next = 0
        self.write(regs.RCTL, rctl)
        self.write(regs.RDT, self.ring_size - 1)
        self.write(regs.TCTL, tctl)
        self.write(regs.IMS, causes)

    def _post(self, index: int) -> None:
        self.memory.write(RX_RING + index * 16, struct.pack("<QQ", RX_BUFFERS + index * self.buffer_bytes, 0))

    def renegotiate(self) -> None:
        self.phy_write(0, self.phy_read(0) | 0x1200)

    # --- Interrupts ---

    def handle_interrupt(self) -> int:
        """Acknowledge what is pending; after a link change look at the PHY, as Linux's watchdog does."""
        cause = self.read(regs.ICR)
        if cause & regs.ICR_LSC:
            self.seen_links.append(bool(self.phy_read(1) & 4))
        return cause

    # --- Transmitting ---

    def descriptor(self, address: int, length: int, command: int, kind: int = 0, upper: int = 0) -> None:
        """Put one descriptor at the tail, without telling the device."""
        lower = length | kind << 20 | command << 24
        self.memory.write(TX_RING + self.tx_tail * 16, struct.pack("<QII", address, lower, upper))
        self.tx_tail = (self.tx_tail + 1) % self.ring_size

    def kick(self) -> None:
        self.write(regs.TDT, self.tx_tail)

    def tx_done(self, index: int) -> bool:
        return bool(self.memory.read(TX_RING + index * 16 + 12, 1)[0] & 1)

    def send(self, frame: bytes, command: int = EOP | IFCS | RS, upper: int = 0) -> None:
        """Send a frame by one legacy descriptor."""
        self.memory.write(TX_BUFFERS, frame)
        self.descriptor(TX_BUFFERS, len(frame), command, upper=upper)
        self.kick()

    def context(
        self, *, l3: int, l4: int, at: int, tcp: bool = True, ipv4: bool = True, header: int = 0, mss: int = 0,
        ends: tuple[int, int] = (0, 0), tse: bool = False,
    ) -> None:  # fmt: skip
        """Load an offload context."""
        word = l3 | (l3 + 10) << 8 | ends[0] << 16 | l4 << 32 | at << 40 | ends[1] << 48
        command = DEXT | (TSE if tse else 0) | (2 if ipv4 else 0) | (1 if tcp else 0)
        self.descriptor(word, 0, command, 0, header << 8 | mss << 16)

    def send_extended(
        self, frame: bytes, options: int, command: int = EOP | IFCS | RS, pieces: int = 1, tag: int = 0
    ) -> None:
        """Send a frame by extended data descriptors, in `pieces` buffers."""
        self.memory.write(TX_BUFFERS, frame)
        size = -(-len(frame) // pieces)
        for at in range(0, len(frame), size):
            last = at + size >= len(frame)
            bits = command if last else command & ~(EOP | RS)
            length = min(size, len(frame) - at)
            self.descriptor(TX_BUFFERS + at, length, bits | DEXT, 1, options << 8 | tag << 16)
        self.kick()

    # --- Receiving ---

    def descriptors(self) -> list[tuple[int, int, int, int, int]]:
        """(length, status, errors, special, index) of the descriptors done since the last call, given back."""
        found: list[tuple[int, int, int, int, int]] = []
        while True:
            index = self.rx_next
            _, length, _, status, errors, special = struct.unpack(
                "<QHHBBH", self.memory.read(RX_RING + index * 16, 16)
            )
            if not status & 1:
                return found
            found.append((length, status, errors, special, index))
            self.rx_next = (index + 1) % self.ring_size

    def received(self) -> list[bytes]:
        """The frames received since the last call; their buffers go back to the device."""
        frames, parts = [], []
        done = self.descriptors()
        for length, status, _, _, index in done:
            parts.append(self.memory.read(RX_BUFFERS + index * self.buffer_bytes, length))
            if status & 2:
                frames.append(b"".join(parts))
                parts = []
            self._post(index)
        if done:
            self.write(regs.RDT, (self.rx_next - 1) % self.ring_size)
        return frames

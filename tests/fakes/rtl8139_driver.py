"""A guest with an RTL8139 driver: real memory, rings, registers through the device's windows, an interrupt line.

`PlusDriver` follows the order of Linux's 8139cp, `OldDriver` that of 8139too; their methods are what tests make the
guest do. `handle_interrupt` is the handler; it runs when a test says so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.fakes.irq import FakeIrq

from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.nic.rtl8139 import RTL8139
from vnic.nic.rtl8139 import registers as r
from vnic.pci import config

MEMORY_BYTES = 1 << 20
RX_RING, TX_RING = GUEST_ADDR, GUEST_ADDR + 0x400
TALLY = GUEST_ADDR + 0x1000
TX_BUFFERS, RX_BUFFERS = GUEST_ADDR + 0x10000, GUEST_ADDR + 0x80000
RX_RING_BUFFER = GUEST_ADDR + 0x40000
SLOT_BYTES = 2048
IO, MMIO = 0, 1
OWN, EOR, FIRST, LAST = 1 << 31, 1 << 30, 1 << 29, 1 << 28
WHOLE = FIRST | LAST
RCR = 0x0A  # broadcast, its own address
PLUS = r.CPCR_RX | r.CPCR_TX
CAUSES = r.LINK_CHANGE | r.TX_OK | r.RX_OK | r.RX_OVERFLOW | r.TX_ERROR


class RtlDriver:
    """What both drivers do. `close` frees the guest's memory."""

    def __init__(self, device: RTL8139, buffer_bytes: int = 1536) -> None:
        self.device = device
        self.irq = FakeIrq()
        self.memory = FakeGuestMemory(MEMORY_BYTES)
        self.buffer_bytes = buffer_bytes
        self.seen_links: list[bool] = []
        self.served = self.memory.served()
        device.plug(self.irq, self.served)

    def close(self) -> None:
        self.device.unplug(self.memory.close)

    before_access: Callable[[int], None] | None = None
    """What a test does before each access to a register."""

    def read(self, offset: int, size: int = 0, window: int = MMIO) -> int:
        if self.before_access is not None:
            self.before_access(offset)
        return int.from_bytes(self.device.window_read(window, offset, size or SIZES[offset]), "little")

    def write(self, offset: int, value: int, size: int = 0, window: int = MMIO) -> None:
        if self.before_access is not None:
            self.before_access(offset)
        self.device.window_write(window, offset, value.to_bytes(size or SIZES[offset], "little"))

    def bus_master(self, enabled: bool = True) -> None:
        command = config.COMMAND_IO | config.COMMAND_MEMORY | (config.COMMAND_MASTER if enabled else 0)
        self.device.config_write(config.COMMAND, command.to_bytes(2, "little"))

    def eeprom_word(self, address: int, address_bits: int = 6) -> int:
        """Read a word as Linux does: clock in start bit, opcode and address, clock out 16 bits."""
        enabled, data_in, clock = 0x88, 0x02, 0x04
        self.write(r.CR9346, 0x80)
        self.write(r.CR9346, enabled)
        for bit in f"110{address:0{address_bits}b}":
            level = data_in if bit == "1" else 0
            self.write(r.CR9346, enabled | level)
            self.write(r.CR9346, enabled | level | clock)
        self.write(r.CR9346, enabled)
        word = 0
        for _ in range(16):
            self.write(r.CR9346, enabled | clock)
            word = word << 1 | self.read(r.CR9346) & 1
            self.write(r.CR9346, enabled)
        self.write(r.CR9346, 0)
        return word

    def probe(self) -> bytes:
        """Reset and identify; returns the MAC that the EEPROM holds."""
        self.bus_master()
        assert self.eeprom_word(0, 8) != 0x8129  # so Linux finds that the memory has 6 bits of address
        assert self.eeprom_word(0) == 0x8129
        return struct.pack("<3H", *(self.eeprom_word(7 + at) for at in range(3)))

    def reset(self) -> None:
        self.write(r.CR, r.CR_RESET)
        assert not self.read(r.CR) & r.CR_RESET

    def handle_interrupt(self) -> int:
        """Acknowledge what is pending; after a link change look at the PHY."""
        cause = self.read(r.ISR)
        self.write(r.ISR, cause)
        if cause & r.LINK_CHANGE:
            self.seen_links.append(bool(self.read(r.BMSR) & 4))
        return cause


SIZES = {each.offset: each.size for each in r.REGISTERS}


class PlusDriver(RtlDriver):
    """C+ mode."""

    def __init__(self, device: RTL8139, ring_size: int = 16, buffer_bytes: int = 1536) -> None:
        super().__init__(device, buffer_bytes)
        self.ring_size = ring_size
        self.tx_next = self.rx_next = 0

    def start(self, rcr: int = RCR, plus: int = PLUS, causes: int = CAUSES) -> None:
        self.bus_master()
        self.reset()
        self.memory.write(TX_RING, bytes(16 * self.ring_size))
        for index in range(self.ring_size):
            self.post(index)
        self.tx_next = self.rx_next = 0
        self.write(r.CPCR, plus)
        self.write(r.RDSAR, RX_RING)
        self.write(r.RDSAR + 4, 0)
        self.write(r.TNPDS, TX_RING)
        self.write(r.TNPDS + 4, 0)
        self.write(r.CR, r.CR_RE | r.CR_TE)
        self.write(r.RCR, rcr)
        self.write(r.IMR, causes)

    def _end(self, index: int) -> int:
        return EOR if index == self.ring_size - 1 else 0

    def post(self, index: int) -> None:
        """Give a receive descriptor to the chip."""
        status = OWN | self._end(index) | self.buffer_bytes
        at = RX_BUFFERS + index * SLOT_BYTES
        self.memory.write(RX_RING + 16 * index, struct.pack("<IIQ", status, 0, at))

    def descriptor(self, address: int, length: int, flags: int = WHOLE, vlan: int = 0) -> int:
        """Put one descriptor behind the last, without telling the device; its number."""
        index = self.tx_next
        status = OWN | self._end(index) | flags | length
        self.memory.write(TX_RING + 16 * index, struct.pack("<IIQ", status, vlan, address))
        self.tx_next = (index + 1) % self.ring_size
        return index

    def poll(self) -> None:
        self.write(r.TPPOLL, 0x40)

    def send(self, frame: bytes, flags: int = 0, vlan: int = 0) -> int:
        at = TX_BUFFERS + self.tx_next * SLOT_BYTES
        self.memory.write(at, frame)
        index = self.descriptor(at, len(frame), WHOLE | flags, vlan)
        self.poll()
        return index

    def done(self, index: int) -> bool:
        return not self.status(TX_RING, index) & OWN

    def status(self, ring: int, index: int) -> int:
        found: int = struct.unpack("<I", self.memory.read(ring + 16 * index, 4))[0]
        return found

    def descriptors(self) -> list[tuple[int, int, bytes]]:
        """What was received since the last call: both dwords, and the frame. The buffers go back to the chip."""
        found = []
        while not self.status(RX_RING, self.rx_next) & OWN:
            index = self.rx_next
            status, vlan, at = struct.unpack("<IIQ", self.memory.read(RX_RING + 16 * index, 16))
            found.append((status, vlan, self.memory.read(at, (status & 0x1FFF) - 4)))
            self.post(index)
            self.rx_next = (index + 1) % self.ring_size
            if len(found) == self.ring_size:
                break
        return found

    def received(self) -> list[bytes]:
        return [frame for _, _, frame in self.descriptors()]


class OldDriver(RtlDriver):
    """C mode. `length` is RCR's code of the buffer's size; `wrap`: frames go on behind its end."""

    def __init__(self, device: RTL8139, length: int = 0, *, wrap: bool = True) -> None:
        super().__init__(device)
        self.size = 8192 << length
        self.wrap = wrap
        self.tx_next = self.rx_at = 0

    def start(self, rcr: int = RCR, causes: int = CAUSES) -> None:
        self.bus_master()
        self.reset()
        self.tx_next = self.rx_at = 0
        self.write(r.CR, r.CR_RE | r.CR_TE)
        self.write(r.RCR, rcr | (self.size // 8192).bit_length() - 1 << 11 | 0x80 * self.wrap)
        self.write(r.RBSTART, RX_RING_BUFFER)
        for number in range(4):
            self.write(r.TSADR + 4 * number, TX_BUFFERS + number * SLOT_BYTES)
        self.write(r.IMR, causes)

    def send(self, frame: bytes) -> int:
        number = self.tx_next
        assert self.read(r.TSD + 4 * number) & 0x2000, "the driver has no free descriptor"
        self.memory.write(TX_BUFFERS + number * SLOT_BYTES, frame)
        self.write(r.TSD + 4 * number, 0x80000 | len(frame))
        self.tx_next = (number + 1) % 4
        return number

    def packets(self) -> list[tuple[int, bytes]]:
        """What was received since the last call: each packet's status, and the frame."""
        found = []
        while not self.read(r.CR) & r.CR_BUFE:
            ring = self.memory.read(RX_RING_BUFFER, self.size + (2048 if self.wrap else 0))
            status, length = struct.unpack_from("<HH", ring, self.rx_at)
            at = self.rx_at + 4
            data = ring if self.wrap else ring + ring
            found.append((status, data[at : at + length - 4]))
            self.rx_at = (self.rx_at + length + 4 + 3 & ~3) % self.size
            self.write(r.CAPR, self.rx_at - 16 & 0xFFFF)
        return found

    def received(self) -> list[bytes]:
        return [frame for _, frame in self.packets()]

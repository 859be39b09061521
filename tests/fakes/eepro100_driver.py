"""A guest with a driver of the 8255x: real memory, command blocks and receive descriptors, an interrupt line.

It follows the order of Linux's e100; its methods are what tests make the guest do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.fakes.irq import FakeIrq

from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.nic.eepro100 import Eepro100
from vnic.nic.eepro100 import registers as r
from vnic.pci import config

MEMORY_BYTES = 1 << 20
BLOCKS, BLOCK_BYTES, BLOCK_COUNT = GUEST_ADDR, 0x400, 32
FRAMES = GUEST_ADDR + 0x10000
BUFFERS = GUEST_ADDR + 0x40000
STATISTICS = GUEST_ADDR + 0xF000
SLOT_BYTES = 2048
RFD_COUNT = 8
DESCRIPTOR = struct.Struct("<HHIIHH")
MAC = bytes.fromhex("525400123456")
NOP, ADDRESS, CONFIGURE, MULTICAST, TRANSMIT = range(5)


class Eepro100Driver:
    """`close` frees the guest's memory."""

    def __init__(self, device: Eepro100) -> None:
        self.device = device
        self.irq = FakeIrq()
        self.memory = FakeGuestMemory(MEMORY_BYTES)
        self.served = self.memory.served()
        self.seen_links: list[bool] = []
        self.before_access: Callable[[], None] | None = None
        self._next = self._begun = 0
        self._taken = 0
        device.plug(self.irq, self.served)

    def close(self) -> None:
        self.device.unplug(self.memory.close)

    def read(self, offset: int, size: int = 1) -> int:
        if self.before_access is not None:
            self.before_access()
        return int.from_bytes(self.device.window_read(0, offset, size), "little")

    def write(self, offset: int, value: int, size: int = 1) -> None:
        if self.before_access is not None:
            self.before_access()
        self.device.window_write(0, offset, value.to_bytes(size, "little"))

    def bus_master(self, enabled: bool = True) -> None:
        command = config.COMMAND_IO | config.COMMAND_MEMORY | (config.COMMAND_MASTER if enabled else 0)
        self.device.config_write(config.COMMAND, command.to_bytes(2, "little"))

    def asserted(self) -> bool:
        """The level of the pin."""
        return self.irq.level

    # --- Probe ---

    def eeprom_word(self, address: int) -> int:
        """Clock in start bit, opcode and address, clock out 16 bits."""
        self.write(r.EEPROM, 2)
        for bit in f"110{address:06b}":
            level = 2 | 4 * int(bit)
            self.write(r.EEPROM, level)
            self.write(r.EEPROM, level | 1)
        word = 0
        for _ in range(16):
            self.write(r.EEPROM, 2)
            self.write(r.EEPROM, 3)
            word = word << 1 | self.read(r.EEPROM) >> 3 & 1
        self.write(r.EEPROM, 0)
        return word

    def mdi(self, register: int, value: int | None = None) -> int:
        """Read a register of the PHY, or write it."""
        operation = 2 if value is None else 1
        self.write(r.MDI, operation << 26 | 1 << 21 | register << 16 | (value or 0), 4)
        answer = self.read(r.MDI, 4)
        assert answer & 1 << 28
        return answer & 0xFFFF

    def start(self, *, configuration: bytes = b"") -> None:
        """Reset, configure, and begin to receive."""
        self.bus_master()
        self.write(r.PORT, 2, 4)
        self.write(r.PORT, 0, 4)
        self.command(0x60, 0)
        self.command(0x06, 0)
        self.command(0x40, STATISTICS)
        self._next = self._begun = self._taken = 0
        if configuration:
            self.do(CONFIGURE, configuration)
        self.do(ADDRESS, MAC)
        self.receive()

    def command(self, value: int, pointer: int | None = None) -> None:
        if pointer is not None:
            self.write(r.POINTER, pointer, 4)
        self.write(r.COMMAND, value)
        assert self.read(r.COMMAND) == 0, "it is accepted"

    # --- Command blocks ---

    def block(self, number: int) -> int:
        return BLOCKS + BLOCK_BYTES * (number % BLOCK_COUNT)

    def add(self, command: int, body: bytes) -> int:
        """A block at the end of the list, which suspends there; returns its number."""
        number = self._next
        self._next += 1
        head = struct.pack("<HHI", 0, command | r.SUSPEND, self.block(number + 1))
        self.memory.write(self.block(number), head + body)
        if number:
            at = self.block(number - 1) + 2
            flags = int.from_bytes(self.memory.read(at, 2), "little") & ~r.SUSPEND
            self.memory.write(at, flags.to_bytes(2, "little"))
        return number

    def go(self) -> None:
        """Start the list, or resume it."""
        if self._begun:
            self.command(0x20)
        else:
            self._begun = 1
            self.command(0x10, self.block(0))

    def do(self, command: int, body: bytes) -> int:
        number = self.add(command, body)
        self.go()
        return number

    def status(self, number: int) -> int:
        return int.from_bytes(self.memory.read(self.block(number), 2), "little")

    def send(self, frame: bytes, flags: int = r.INTERRUPT) -> int:
        """In the flexible mode, with one buffer descriptor behind the block."""
        number = self._next
        buffer = BUFFERS + SLOT_BYTES * (number % 64)
        self.memory.write(buffer, frame)
        array = self.block(number) + 16
        body = struct.pack("<IHBBIHH", array, 0, 0xE0, 1, buffer, len(frame), 1)
        return self.do(TRANSMIT | r.FLEXIBLE | flags, body)

    # --- Receive descriptors ---

    def receive(self, count: int = RFD_COUNT, size: int = 1522) -> None:
        for number in range(count):
            end = r.END if number == count - 1 else 0
            link = FRAMES + SLOT_BYTES * ((number + 1) % count)
            head = DESCRIPTOR.pack(0, end, link, 0xFFFFFFFF, 0, size)
            self.memory.write(FRAMES + SLOT_BYTES * number, head)
        self._taken = 0
        self.command(0x01, FRAMES)

    def received(self) -> list[bytes]:
        """The frames since the last call."""
        frames = []
        while self._taken < RFD_COUNT:
            at = FRAMES + SLOT_BYTES * self._taken
            status, _, _, _, count, _ = DESCRIPTOR.unpack(self.memory.read(at, DESCRIPTOR.size))
            if not status & r.COMPLETE:
                break
            assert count & 0xC000 == 0xC000
            frames.append(self.memory.read(at + DESCRIPTOR.size, count & 0x3FFF))
            self._taken += 1
        return frames

    def look_at_link(self) -> bool:
        """As Linux's watchdog, every two seconds."""
        up = bool(self.mdi(1) & 4)
        self.seen_links.append(up)
        return up

    def dump(self, *, reset: bool = False) -> bytes:
        self.command(0x70 if reset else 0x50)
        return self.memory.read(STATISTICS, 88)

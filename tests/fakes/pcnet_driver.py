"""A guest with a PCnet driver: real memory, real rings, registers through the device's windows, an interrupt line.

It follows Linux's pcnet32: reset by a read, 32-bit descriptors, an initialization block, transmission demanded by TDMD.
`style` chooses the software style, `wide` accesses of 32 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.fakes.irq import FakeIrq

from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.nic.pcnet import Pcnet
from vnic.pci import config

LOW_ADDR = 0x10_0000
"""Where 24 bits reach: the LANCE's style has no more."""
MEMORY_BYTES = 1 << 20
BLOCK, TX_RING, RX_RING, TX_BUFFERS, RX_BUFFERS = 0x0, 0x1000, 0x4000, 0x10000, 0x40000
"""Offsets in the guest's memory."""
IO, MMIO = 0, 1

INIT, STRT, STOP, TDMD, INEA = 1, 2, 4, 8, 0x40
IDON, TINT, RINT, MISS, CERR, BABL = 0x100, 0x200, 0x400, 0x1000, 0x2000, 0x4000
OWN, ERR, STP, ENP = 0x8000, 0x4000, 0x200, 0x100
LCAR, UFLO = 0x0800_0000, 0x4000_0000
LINUX_CSR4 = 0x0915
PROMISCUOUS = 0x8000


class PcnetDriver:
    """The guest. `close` frees its memory."""

    def __init__(
        self,
        device: Pcnet,
        *,
        style: int = 2,
        wide: bool = False,
        log_size: int = 4,
        buffer_bytes: int = 1544,
        region: int = IO,
    ) -> None:
        self.device = device
        self.style, self.wide, self.region = style, wide, region
        self.log_size, self.ring_size = log_size, 1 << log_size
        self.buffer_bytes = buffer_bytes
        self.irq = FakeIrq()
        self.memory = FakeGuestMemory(MEMORY_BYTES, guest_addr=LOW_ADDR if style == 0 else GUEST_ADDR)
        self.base = self.memory.guest_addr
        self.tx_next = self.rx_next = 0
        self.served = self.memory.served()
        device.plug(self.irq, self.served)

    def close(self) -> None:
        self.device.unplug(self.memory.close)

    # --- Registers ---

    before_access: Callable[[], None] | None = None
    """What a test does before each access to a register."""

    def port(self, number: int) -> tuple[int, int]:
        width = 4 if self.wide else 2
        return 16 + number * width, width

    def read_port(self, number: int) -> int:
        if self.before_access is not None:
            self.before_access()
        at, width = self.port(number)
        return int.from_bytes(self.device.window_read(self.region, at, width), "little")

    def write_port(self, number: int, value: int) -> None:
        if self.before_access is not None:
            self.before_access()
        at, width = self.port(number)
        self.device.window_write(self.region, at, value.to_bytes(width, "little"))

    def csr(self, number: int) -> int:
        self.write_port(1, number)
        return self.read_port(0) & (0xFFFFFFFF if number == 88 else 0xFFFF)

    def write_csr(self, number: int, value: int) -> None:
        self.write_port(1, number)
        self.write_port(0, value)

    def bcr(self, number: int) -> int:
        self.write_port(1, number)
        return self.read_port(3) & 0xFFFF

    def write_bcr(self, number: int, value: int) -> None:
        self.write_port(1, number)
        self.write_port(3, value)

    def aprom(self) -> bytes:
        return b"".join(self.device.window_read(self.region, at, 1) for at in range(16))

    def bus_master(self, enabled: bool = True) -> None:
        command = config.COMMAND_IO | config.COMMAND_MEMORY | (config.COMMAND_MASTER if enabled else 0)
        self.device.config_write(config.COMMAND, command.to_bytes(2, "little"))

    def reset(self) -> None:
        self.read_port(2)

    # --- Life ---

    def probe(self) -> bytes:
        """Reset and identify; returns the address that the PROM holds."""
        self.bus_master()
        if self.wide:
            self.device.window_write(self.region, 16, bytes(4))
        self.reset()
        assert self.csr(0) == STOP
        assert (self.csr(88) | self.csr(89) << 16) & 0xFFFFFFFF == 0x02621003
        return self.aprom()[:6]

    def start(
        self, mode: int = 0, *, filters: bytes = bytes(8), csr4: int = LINUX_CSR4, mac: bytes = b""
    ) -> None:
        """Set up both rings, give every receive buffer to the chip, and start it."""
        self.bus_master()
        if self.wide:
            self.device.window_write(self.region, 16, bytes(4))
        self.reset()
        self.write_bcr(20, self.style)
        self.tx_next = self.rx_next = 0
        size = 8 if self.style == 0 else 16
        self.memory.write(self.base + TX_RING, bytes(self.ring_size * size))
        for index in range(self.ring_size):
            self.give(index)
        mac = mac or self.aprom()[:6]
        rings = (self.base + RX_RING, self.base + TX_RING)
        if self.style == 0:
            ends = struct.pack("<II", *(each | self.log_size << 29 for each in rings))
            block = struct.pack("<H", mode) + mac + filters + ends
        else:
            log = self.log_size << 4
            block = struct.pack("<HBB6sH8sII", mode, log, log, mac, 0, filters, *rings)
        self.memory.write(self.base + BLOCK, block)
        self.write_csr(1, (self.base + BLOCK) & 0xFFFF)
        self.write_csr(2, (self.base + BLOCK) >> 16)
        self.write_csr(4, csr4)
        self.write_csr(0, INIT)
        self.write_csr(0, STRT | INEA)

    def interrupted(self) -> bool:
        """The level of the pin."""
        return self.irq.level

    def take_interrupt(self) -> int:
        """Read the causes and clear them."""
        causes = self.csr(0)
        self.write_csr(0, causes & 0x7F00 | INEA)
        return causes

    # --- Descriptors, in the style of the chip ---

    def put(self, ring: int, index: int, address: int, length: int, status: int) -> None:
        bcnt = -length & 0xFFFF if length <= 4096 else length
        if self.style == 0:
            data = struct.pack("<IHH", address & 0xFFFFFF | (status & 0xFF00) << 16, bcnt, 0)
        elif self.style == 3:
            data = struct.pack("<IHHII", 0, bcnt, status, address, 0)
        else:
            data = struct.pack("<IHHII", address, bcnt, status, 0, 0)
        self.memory.write(self.base + ring + index * len(data), data)

    def look(self, ring: int, index: int) -> tuple[int, int]:
        """The status and RMD2 or TMD2 of a descriptor."""
        if self.style == 0:
            first, _, more = struct.unpack("<IHH", self.memory.read(self.base + ring + index * 8, 8))
            return first >> 16 & 0xFF00, more << 16 if ring == TX_RING else more
        data = self.memory.read(self.base + ring + index * 16, 16)
        if self.style == 3:
            more, _, status, _, _ = struct.unpack("<IHHII", data)
        else:
            _, _, status, more, _ = struct.unpack("<IHHII", data)
        return status, more

    # --- Transmitting ---

    def piece(self, data: bytes, status: int) -> None:
        """Put one descriptor, without a word to the chip."""
        at = self.base + TX_BUFFERS + self.tx_next * 4096
        self.memory.write(at, data)
        self.put(TX_RING, self.tx_next, at, len(data), status)
        self.tx_next = (self.tx_next + 1) % self.ring_size

    def demand(self) -> None:
        self.write_csr(0, TDMD | INEA)

    def send(self, frame: bytes, pieces: int = 1) -> None:
        self.put_frame(frame, pieces)
        self.demand()

    def put_frame(self, frame: bytes, pieces: int = 1) -> None:
        size = -(-len(frame) // pieces)
        for at in range(0, len(frame), size):
            flags = STP * (at == 0) | ENP * (at + size >= len(frame))
            self.piece(frame[at : at + size], OWN | flags)

    def sent(self, index: int) -> tuple[int, int]:
        """The status and TMD2 of a transmit descriptor."""
        return self.look(TX_RING, index)

    # --- Receiving ---

    def give(self, index: int) -> None:
        at = self.base + RX_BUFFERS + index * self.buffer_bytes
        self.put(RX_RING, index, at, self.buffer_bytes, OWN)

    def received(self) -> list[bytes]:
        """The frames received since the last call, without their FCS; their descriptors go back to the chip."""
        frames: list[bytes] = []
        parts = b""
        while True:
            index = self.rx_next
            status, count = self.look(RX_RING, index)
            if status & OWN:
                assert not parts, "half a frame"
                return frames
            assert not status & ERR
            parts += self.memory.read(self.base + RX_BUFFERS + index * self.buffer_bytes, self.buffer_bytes)
            if status & ENP:
                frames.append(parts[: (count & 0xFFF) - 4])
                parts = b""
            self.give(index)
            self.rx_next = (index + 1) % self.ring_size

"""A guest with a vmxnet3 driver: real memory, real rings, registers through the device's windows, interrupt lines.

It follows the order of Linux's driver: probe, activate with the shared area, enable interrupts. Its methods are what
tests make the guest do; `handle_events` is the handler of the event interrupt.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.fakes.irq import FakeIrq

from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.nic.vmxnet3 import Vmxnet3
from vnic.nic.vmxnet3 import regs as r
from vnic.pci import config
from vnic.pci.capability import CAP_MSI, CAP_MSIX, MSI_CONTROL, MSIX_CONTROL

MEMORY_BYTES = 4 << 20
SHARED, QUEUES, GROUPS = GUEST_ADDR, GUEST_ADDR + 0x1000, GUEST_ADDR + 0x2000
TX_BUFFERS, RX_BUFFERS, RINGS = GUEST_ADDR + 0x20000, GUEST_ADDR + 0x100000, GUEST_ADDR + 0x300000
ECR = SHARED + 696
UCAST_BCAST = r.RXM_UCAST | r.RXM_BCAST
ENABLED = {"msix": (CAP_MSIX, MSIX_CONTROL, b"\x18\x80"), "msi": (CAP_MSI, MSI_CONTROL, b"\x81\x00")}

Words = tuple[int, int, int, int]


class _Ring:
    """A ring of the guest; `generation` is that of its next descriptor."""

    def __init__(self, base: int, size: int) -> None:
        self.base, self.size = base, size
        self.next, self.generation = 0, 1

    @property
    def where(self) -> int:
        return self.base + self.next * 16

    def advance(self) -> int:
        index = self.next
        self.next = (self.next + 1) % self.size
        self.generation ^= self.next == 0
        return index


class Vmxnet3Driver:
    """The guest. `close` frees its memory."""

    def __init__(
        self, device: Vmxnet3, *, queues: int = 1, size: int = 32, bodies: int = 0, buffer_bytes: int = 2048
    ) -> None:
        """`queues` of each kind. `bodies`: how many follow each head in the first receive ring."""
        self.device = device
        self.irq = FakeIrq()
        self.memory = FakeGuestMemory(MEMORY_BYTES)
        self.served = self.memory.served()
        self.queues, self.size, self.bodies, self.buffer_bytes = queues, size, bodies, buffer_bytes
        self.system = 2 | 1 << 2  # 64 bits, Linux
        self.mtu, self.fragments = 1500, 0
        self.features = r.F_RXVLAN
        self.auto_mask = True
        self.interrupts = list(range(queues))
        self.event_interrupt = queues
        self.seen_links: list[bool] = []
        device.plug(self.irq, self.served)

    def close(self) -> None:
        self.device.unplug(self.memory.close)

    # --- Registers ---

    before_access: Callable[[], None] | None = None
    """What a test does before each access to a register."""

    def read(self, bar: int, offset: int) -> int:
        if self.before_access is not None:
            self.before_access()
        return int.from_bytes(self.device.window_read(bar, offset, 4), "little")

    def write(self, bar: int, offset: int, value: int) -> None:
        if self.before_access is not None:
            self.before_access()
        self.device.window_write(bar, offset, value.to_bytes(4, "little"))

    def command(self, value: int) -> int:
        self.write(r.VD_BAR, r.CMD, value)
        return self.read(r.VD_BAR, r.CMD)

    def bus_master(self, enabled: bool = True) -> None:
        command = config.COMMAND_MEMORY | (config.COMMAND_MASTER if enabled else 0)
        self.device.config_write(config.COMMAND, command.to_bytes(2, "little"))

    def mask(self, index: int, masked: bool) -> None:
        self.write(r.PT_BAR, r.IMR + 8 * index, masked)

    # --- Life ---

    def probe(self, interrupts: str = "msix") -> bytes:
        """Identify the device, choose the kind of interrupts; returns the MAC."""
        self.bus_master()
        assert self.read(r.VD_BAR, r.VRRS) & 1
        self.write(r.VD_BAR, r.VRRS, 1)
        assert self.read(r.VD_BAR, r.UVRS) & 1
        self.write(r.VD_BAR, r.UVRS, 1)
        if interrupts in ENABLED:
            capability, control, value = ENABLED[interrupts]
            self.device.config_write(self.device.config.find(capability) + control, value)
        if interrupts != "msix":
            self.interrupts, self.event_interrupt = [0] * self.queues, 0
        self.look_at_link()
        low, high = self.read(r.VD_BAR, r.MACL), self.read(r.VD_BAR, r.MACH)
        return struct.pack("<IH", low, high)

    def start(self, mode: int = UCAST_BCAST) -> None:
        """Activate with empty rings, post all receive buffers but one, and enable the interrupts."""
        self.set_up()
        assert self.command(r.ACTIVATE_DEV) == 0
        self.set_mode(mode)
        self.look_at_link()
        for index in {*self.interrupts, self.event_interrupt}:
            self.mask(index, False)

    def set_up(self) -> None:
        """Write the shared area and the rings, and tell the device where they are."""
        size = self.size
        self.memory.write(RINGS, bytes(5 * 16 * size * 2 * self.queues))
        at = iter(range(RINGS, RINGS + MEMORY_BYTES, 16 * size))
        self.tx = [_Ring(next(at), size) for _ in range(self.queues)]
        self.tx_done = [_Ring(next(at), size) for _ in range(self.queues)]
        self.rx = [_Ring(next(at), size), _Ring(next(at), size)]
        self.rx_done = _Ring(next(at), 2 * size)
        next(at)
        self.memory.write(SHARED, self.shared_area())
        self.memory.write(QUEUES, b"".join(self._queue_descriptors()))
        for _ in range(size - 1):
            self.post(0)
            self.post(1)
        self.write(r.VD_BAR, r.DSAL, SHARED)
        self.write(r.VD_BAR, r.DSAH, SHARED >> 32)

    def shared_area(self) -> bytes:
        misc = struct.pack(
            "<IIIIQQQIIIHBB16x", 0x10400, self.system, 1, 1, self.features, 0, QUEUES, 0, 512 * self.queues,
            self.mtu, self.fragments, self.queues, self.queues,
        )  # fmt: skip
        intr = struct.pack("<BBB25xI8x", self.auto_mask, len({*self.interrupts}) + 1, self.event_interrupt, 1)
        rx_filter = struct.pack("<IHHQ", 0, 0, 0, GROUPS) + bytes(512)
        return (struct.pack("<II", 0xBABEFEE1, 0) + misc + intr + rx_filter + bytes(48)).ljust(720, b"\0")

    def _queue_descriptors(self) -> list[bytes]:
        found = []
        for ring, done, interrupt in zip(self.tx, self.tx_done, self.interrupts, strict=True):
            conf = struct.pack(
                "<QQQQQIIIIB7x", ring.base, 0, done.base, 0, 0, ring.size, 0, done.size, 0, interrupt
            )
            found.append((bytes(16) + conf).ljust(256, b"\0"))
        for number, interrupt in enumerate(self.interrupts):
            first, second, done = (*self.rx, self.rx_done)
            sizes = (first.size, second.size, done.size) if not number else (0, 0, 1)
            conf = struct.pack(
                "<QQQQQIIIIB7x", first.base, second.base, done.base if not number else RINGS + 0x80000, 0, 0,
                *sizes, 0, interrupt,
            )  # fmt: skip
            found.append((bytes(16) + conf).ljust(256, b"\0"))
        return found

    def post(self, number: int) -> None:
        """Give the device the next buffer of a receive ring."""
        ring = self.rx[number]
        buffer = self.buffer(number, ring.next)
        body = number == 1 or ring.next % (1 + self.bodies) != 0
        word = self.buffer_bytes | body << 14 | ring.generation << 31
        self.memory.write(ring.where, struct.pack("<QII", buffer, word, 0))
        ring.advance()

    def buffer(self, number: int, index: int) -> int:
        return RX_BUFFERS + (number * self.size + index) * self.buffer_bytes

    # --- The filter ---

    def set_mode(self, mode: int) -> None:
        self.memory.write(SHARED + 120, struct.pack("<I", mode))
        self.write(r.VD_BAR, r.CMD, r.UPDATE_RX_MODE)

    def set_groups(self, groups: list[bytes]) -> None:
        self.memory.write(GROUPS, b"".join(groups))
        self.memory.write(SHARED + 124, struct.pack("<HHQ", 6 * len(groups), 0, GROUPS))
        self.write(r.VD_BAR, r.CMD, r.UPDATE_MAC_FILTERS)

    def set_vlans(self, vlans: set[int]) -> None:
        table = sum(1 << vid for vid in vlans)
        self.memory.write(SHARED + 136, table.to_bytes(512, "little"))
        self.write(r.VD_BAR, r.CMD, r.UPDATE_VLAN_FILTERS)

    # --- Events and the link ---

    def look_at_link(self) -> int:
        word = self.command(r.GET_LINK)
        self.seen_links.append(bool(word & 1))
        return word

    def events(self) -> int:
        return int.from_bytes(self.memory.read(ECR, 4), "little")

    def handle_events(self) -> int:
        """Acknowledge what there is, look at the link if it may have changed, and enable the interrupt again."""
        events = self.events()
        if events:
            self.write(r.VD_BAR, r.ECR, events)
        if events & r.ECR_LINK:
            self.look_at_link()
        self.mask(self.event_interrupt, False)
        return events

    def sent(self) -> list[int]:
        """The vectors that came since the last call."""
        found = [vector for _, vector in self.irq.sent]
        self.irq.sent.clear()
        return found

    # --- Transmitting ---

    def descriptor(
        self, address: int, length: int, *, eop: bool = True, om: int = 0, msscof: int = 0, hlen: int = 0,
        tag: int | None = None, queue: int = 0, valid: bool = True,
    ) -> int:  # fmt: skip
        """Put one descriptor into a ring, without telling the device; returns its index."""
        ring = self.tx[queue]
        generation = ring.generation if valid else ring.generation ^ 1
        first = length & 0x3FFF | generation << 14 | msscof << 18
        second = hlen | om << 10 | eop << 12 | eop << 13 | (0 if tag is None else 1 << 15 | tag << 16)
        self.memory.write(ring.where, struct.pack("<QII", address, first, second))
        return ring.advance()

    def kick(self, queue: int = 0) -> None:
        self.write(r.PT_BAR, r.TXPROD + 8 * queue, self.tx[queue].next)

    def send(
        self, frame: bytes, *, pieces: int = 1, om: int = 0, msscof: int = 0, hlen: int = 0,
        tag: int | None = None, queue: int = 0,
    ) -> None:  # fmt: skip
        """Send a frame in `pieces` buffers."""
        self.memory.write(TX_BUFFERS, frame)
        size = -(-len(frame) // pieces)
        for at in range(0, len(frame), size):
            last = at + size >= len(frame)
            self.descriptor(
                TX_BUFFERS + at, min(size, len(frame) - at), eop=last, om=om, msscof=msscof, hlen=hlen, tag=tag,
                queue=queue,
            )  # fmt: skip
        self.kick(queue)

    def _done(self, ring: _Ring) -> Words | None:
        words: Words = struct.unpack("<IIII", self.memory.read(ring.where, 16))
        if words[3] >> 31 != ring.generation:
            return None
        ring.advance()
        return words

    def completed(self, queue: int = 0) -> list[int]:
        """The indices of the last descriptors of packets that are done since the last call."""
        found = []
        while (words := self._done(self.tx_done[queue])) is not None:
            found.append(words[0] & 0xFFF)
        return found

    # --- Receiving ---

    def completions(self) -> list[tuple[int, int, Words]]:
        """(ring, index, words) of what is done since the last call."""
        found = []
        while (words := self._done(self.rx_done)) is not None:
            ring = (words[0] >> 16 & 0x3FF) // self.queues
            found.append((ring, words[0] & 0xFFF, words))
        return found

    def received(self) -> list[bytes]:
        """The frames received since the last call; their buffers, and those that were skipped, go back."""
        frames: list[bytes] = []
        parts: list[bytes] = []
        for number, index, words in self.completions():
            assert bool(words[0] & r.RCD_SOP) == (not parts)
            parts.append(self.memory.read(self.buffer(number, index), words[2] & 0x3FFF))
            if words[0] & r.RCD_EOP:
                frames.append(b"".join(parts))
                parts = []
            ring = self.rx[number]
            while ring.next != index:
                self.post(number)
        assert not parts
        return frames

    # --- Statistics ---

    def statistics(self, number: int = 0) -> tuple[int, ...]:
        """The counters of queue descriptor `number`; those of receive queues follow those of the transmit queues."""
        self.write(r.VD_BAR, r.CMD, r.GET_STATS)
        return struct.unpack("<10Q", self.memory.read(QUEUES + 256 * number + 88, 80))

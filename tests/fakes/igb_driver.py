"""A guest with an igb driver: several queue pairs with advanced descriptors, and interrupts by MSI-X, MSI or the pin.

It follows the order of Linux's driver: reset, EEPROM word by word through EERD, PHY, rings, vectors. A vector serves
queue pair n, the last one all other causes. `handle` is its handler of one vector.
"""

from __future__ import annotations

import struct
from typing import Literal

from tests.fakes.e1000_driver import (
    RCTL as RCTL,
)
from tests.fakes.e1000_driver import (
    TCTL as TCTL,
)
from tests.fakes.e1000_driver import (
    E1000Driver,
)

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.nic.intel import regs
from vnic.nic.intel.igb import Igb
from vnic.nic.intel.igb import registers as r
from vnic.pci import capability

RING_SIZE = 16
TX_RINGS, RX_RINGS = GUEST_ADDR, GUEST_ADDR + 0x4000
TX_BUFFERS, RX_BUFFERS = GUEST_ADDR + 0x8000, GUEST_ADDR + 0x80000
DATA, CONTEXT = 3, 2
EOP, IFCS, RS, DEXT, VLE, TSE = 0x01, 0x02, 0x08, 0x20, 0x40, 0x80
IXSM, TXSM = 1, 2
UDP, TCP, SCTP = 0, 1, 2
GPIE_MSIX = 1 << 31 | 1 << 30 | 1 << 4 | 1 << 0
"""PBA support, EIAME, Multiple_MSIX, NSICR, as Linux sets them."""
CAUSES = regs.ICR_LSC | 1 << 7 | regs.ICR_RXDMT0 | regs.ICR_TXDW

Mode = Literal["msix", "msi", "intx"]


class IgbDriver(E1000Driver):
    """The guest. `queues` pairs of rings of `RING_SIZE` descriptors with 2048-byte buffers."""

    def __init__(self, device: Igb, queues: int = 2, mode: Mode = "msix") -> None:
        super().__init__(device)
        self.device: Igb = device
        self.queues = queues
        self.mode = mode
        self.tails = [0] * queues
        self.nexts = [0] * queues
        self.other = queues
        """The vector of a link change."""

    # --- Life ---

    def reset(self) -> None:
        self.bus_master()
        self.write(regs.IMC, 0xFFFFFFFF)
        self.write(regs.CTRL, self.read(regs.CTRL) | regs.CTRL_RST)
        self.read(regs.ICR)

    def word(self, address: int) -> int:
        self.write(regs.EERD, address << 2 | 1)
        answer = self.read(regs.EERD)
        assert answer & 2, "EERD is not done"
        return answer >> 16

    def probe(self) -> bytes:
        """Reset and identify; returns the MAC that the EEPROM holds."""
        self.reset()
        words = [self.word(at) for at in range(64)]
        assert sum(words) & 0xFFFF == 0xBABA
        assert self.phy_read(2) << 16 | self.phy_read(3) & 0xFFF0 == 0x02A80390
        return struct.pack("<3H", *words[:3])

    def start(self, rctl: int = RCTL, tctl: int = TCTL, causes: int = CAUSES) -> None:
        """Bring the interface up; the link comes up by the negotiation that this starts."""
        self.bus_master()
        self.write(regs.CTRL, (self.read(regs.CTRL) | regs.CTRL_SLU) & ~r.CTRL_LRST)
        self.renegotiate()
        self.write(regs.TCTL, tctl)
        for queue in range(self.queues):
            self._start_ring(r.TX, queue, TX_RINGS)
            self._start_ring(r.RX, queue, RX_RINGS)
            self.tails[queue] = self.nexts[queue] = 0
            for index in range(RING_SIZE):
                self._post_at(queue, index)
        self.write(regs.RCTL, rctl)
        for queue in range(self.queues):
            self.write(self.place(r.RX, queue, regs.TAIL), RING_SIZE - 1)
        self._enable_interrupts(causes)

    def place(self, first: int, queue: int, offset: int) -> int:
        """Where a register of a queue is: Linux's places, of which the first four are the older ones."""
        if queue < 4:
            return (regs.RDBAL if first == r.RX else regs.TDBAL) + 0x100 * queue + offset
        return first + r.QUEUE_BYTES * queue + offset

    def _start_ring(self, first: int, queue: int, rings: int) -> None:
        control = r.RXDCTL if first == r.RX else r.TXDCTL
        ring = rings + queue * RING_SIZE * 16
        self.write(self.place(first, queue, control), 0)
        for at, value in ((0, ring), (4, 0), (8, RING_SIZE * 16), (16, 0), (24, 0)):
            self.write(self.place(first, queue, at), value)
        if first == r.RX:
            self.write(self.place(first, queue, r.SRRCTL), 1 << 25 | 2)
        else:
            self.memory.write(ring, bytes(RING_SIZE * 16))
        self.write(self.place(first, queue, control), r.QUEUE_ENABLE)

    def _enable_interrupts(self, causes: int) -> None:
        if self.mode == "msix":
            self.config_msix(True)
            self.write(r.GPIE, GPIE_MSIX)
            for queue in range(self.queues):
                self.write(r.IVAR + 4 * (queue & 7), (0x80 | queue) * 0x101 << 16 * (queue >> 3))
            self.write(r.IVAR_MISC, (0x80 | self.other) << 8)
            vectors = (1 << self.queues + 1) - 1
            for register in (r.EIAC, r.EIAM, r.EIMS):
                self.write(register, vectors)
            self.write(regs.IMS, regs.ICR_LSC)
            return
        if self.mode == "msi":
            at = self.device.config.find(capability.CAP_MSI)
            self.device.config_write(at + capability.MSI_CONTROL, b"\x01\x00")
        self.write(regs.IMS, causes)
        self.write(r.IAM, causes)

    def config_msix(self, enabled: bool) -> None:
        at = self.device.config.find(capability.CAP_MSIX) + capability.MSIX_CONTROL
        control = self.device.config.get(at, 2) & ~capability.MSIX_ENABLE | capability.MSIX_ENABLE * enabled
        self.device.config_write(at, control.to_bytes(2, "little"))

    # --- Interrupts ---

    def messages(self) -> list[int]:
        """The vectors of the messages since the last call."""
        sent, self.irq.sent = [vector for _, vector in self.irq.sent], []
        return sent

    def handle(self, vector: int = 0) -> int:
        """The handler: of the other causes with MSI-X, else of all; afterwards the vector is enabled again."""
        cause = 0
        if self.mode != "msix" or vector == self.other:
            cause = self.read(regs.ICR)
            if cause & regs.ICR_LSC:
                self.seen_links.append(bool(self.phy_read(1) & 4))
        if self.mode == "msix":
            self.write(r.EIMS, 1 << vector)
        else:
            self.write(regs.IMS, CAUSES)
        return cause

    # --- Transmitting ---

    def put(self, queue: int, address: int, lower: int, upper: int) -> None:
        """Put one descriptor at the tail, without telling the device."""
        where = TX_RINGS + (queue * RING_SIZE + self.tails[queue]) * 16
        self.memory.write(where, struct.pack("<QII", address, lower & 0xFFFFFFFF, upper & 0xFFFFFFFF))
        self.tails[queue] = (self.tails[queue] + 1) % RING_SIZE

    def kick_queue(self, queue: int = 0) -> None:
        self.write(self.place(r.TX, queue, regs.TAIL), self.tails[queue])

    def done(self, queue: int, index: int) -> bool:
        return bool(self.memory.read(TX_RINGS + (queue * RING_SIZE + index) * 16 + 12, 1)[0] & 1)

    def put_context(
        self,
        queue: int = 0,
        *,
        l3: int = 14,
        ip: int = 20,
        l4: int = 0,
        kind: int = TCP,
        ipv4: bool = True,
        mss: int = 0,
        tag: int = 0,
        index: int = 0,
    ) -> None:
        lengths = tag << 16 | l3 << 9 | ip
        lower = DEXT << 24 | CONTEXT << 20 | kind << 11 | ipv4 << 10
        self.put(queue, lengths, lower, mss << 16 | l4 << 8 | index << 4)

    def put_frame(
        self,
        frame: bytes,
        queue: int = 0,
        *,
        options: int = 0,
        command: int = EOP | IFCS | RS,
        pieces: int = 1,
        index: int = 0,
    ) -> None:
        """Post a frame by advanced data descriptors, and tell the device."""
        self.memory.write(TX_BUFFERS, frame)
        size = -(-len(frame) // pieces)
        for at in range(0, len(frame), size):
            last = at + size >= len(frame)
            bits = (command if last else command & ~(EOP | RS)) | DEXT
            lower = min(size, len(frame) - at) | DATA << 20 | bits << 24
            self.put(queue, TX_BUFFERS + at, lower, len(frame) << 14 | options << 8 | index << 4)
        self.kick_queue(queue)

    # --- Receiving ---

    def _post_at(self, queue: int, index: int) -> None:
        slot = queue * RING_SIZE + index
        self.memory.write(RX_RINGS + slot * 16, struct.pack("<QQ", RX_BUFFERS + slot * 2048, 0))

    def written_back(self, queue: int = 0) -> list[tuple[int, int, int, int, int, int]]:
        """(packet info, RSS hash, status and errors, length, tag, index) of the descriptors that are newly done."""
        found: list[tuple[int, int, int, int, int, int]] = []
        while True:
            index = self.nexts[queue]
            where = RX_RINGS + (queue * RING_SIZE + index) * 16
            info, hashed, status, length, tag = struct.unpack("<IIIHH", self.memory.read(where, 16))
            if not status & 1:
                return found
            found.append((info, hashed, status, length, tag, index))
            self.nexts[queue] = (index + 1) % RING_SIZE

    def frames(self, queue: int = 0) -> list[bytes]:
        """The frames received since the last call; their buffers go back to the device."""
        frames, parts = [], []
        done = self.written_back(queue)
        for _, _, status, length, _, index in done:
            parts.append(self.memory.read(RX_BUFFERS + (queue * RING_SIZE + index) * 2048, length))
            if status & 2:
                frames.append(b"".join(parts))
                parts = []
            self._post_at(queue, index)
        if done:
            self.write(self.place(r.RX, queue, regs.TAIL), (self.nexts[queue] - 1) % RING_SIZE)
        return frames

"""A guest with an e1000e driver, after Linux's: MSI-X with a vector for receive, transmit and all else, EIAC, extended
receive descriptors, the NVM through EERD. What it shares with the e1000's driver is that one's."""

from __future__ import annotations

import struct

from tests.fakes.e1000_driver import RCTL, RX_BUFFERS, RX_RING, TCTL, E1000Driver

from vnic.nic.intel import regs
from vnic.nic.intel.e1000e import interrupts as irq
from vnic.nic.intel.e1000e import registers as r
from vnic.pci import capability

RX_VECTOR, TX_VECTOR, OTHER_VECTOR = 0, 1, 2
IVAR = 0x80000000 | (8 | OTHER_VECTOR) << 16 | (8 | TX_VECTOR) << 8 | 8 | RX_VECTOR
QUEUE_CAUSES = irq.ICR_RXQ0 | irq.ICR_TXQ0
OTHER_CAUSES = irq.ICR_OTHER | regs.ICR_LSC
EXTEN, ACK_DIS = 1 << 15, 1 << 12
SPLIT = 1 << 10
EERD_DONE = 2


class E1000eDriver(E1000Driver):
    """The guest. `split`: it uses packet split descriptors, whose header buffer has 128 bytes."""

    split = False

    def nvm_word(self, address: int) -> int:
        self.write(regs.EERD, address << 2 | 1)
        value = self.read(regs.EERD)
        assert value & EERD_DONE
        return value >> 16

    def probe(self) -> bytes:
        self.bus_master()
        self.write(regs.IMC, 0xFFFFFFFF)
        self.write(regs.CTRL, self.read(regs.CTRL) | regs.CTRL_RST)
        words = [self.nvm_word(at) for at in range(64)]
        assert sum(words) & 0xFFFF == 0xBABA
        return struct.pack("<3H", *words[:3])

    def use_msix(self, enabled: bool = True) -> None:
        at = self.device.config.find(capability.CAP_MSIX) + capability.MSIX_CONTROL
        self.device.config_write(at + 1, b"\x80" if enabled else b"\0")

    def use_msi(self) -> None:
        at = self.device.config.find(capability.CAP_MSI) + capability.MSI_CONTROL
        self.device.config_write(at, b"\x81\0")

    def start(self, rctl: int = RCTL, tctl: int = TCTL, causes: int = QUEUE_CAUSES | OTHER_CAUSES) -> None:
        self.use_msix()
        self.write(r.RFCTL, EXTEN | ACK_DIS)
        self.write(r.IVAR, IVAR)
        self.write(r.EIAC, QUEUE_CAUSES)
        super().start(rctl | (SPLIT if self.split else 0), tctl, causes)
        if self.split:
            self.write(regs.RDT, 2 * (self.ring_size // 2 - 1))

    def vectors(self) -> list[int]:
        """The MSI-X vectors that were sent since the last call."""
        sent, self.irq.sent = self.irq.sent, []
        assert all(kind == "msix" for kind, _ in sent)
        return [vector for _, vector in sent]

    def enable_again(self, causes: int = QUEUE_CAUSES) -> None:
        self.write(regs.IMS, causes)

    # --- Receiving ---

    def _post(self, index: int) -> None:
        if not self.split:
            super()._post(index)
        elif not index % 2:
            # The header buffer, and one of 2048 bytes for the payload.
            buffers = (RX_BUFFERS + index * self.buffer_bytes, RX_BUFFERS + (index + 1) * self.buffer_bytes)
            self.memory.write(RX_RING + index * 16, struct.pack("<QQQQ", *buffers, 0, 0))

    def extended(self) -> list[tuple[int, int, int, int, int, int]]:
        """(MRQ, second dword, status and errors, length, VLAN, index) of the descriptors done since the last call."""
        found: list[tuple[int, int, int, int, int, int]] = []
        units = 2 if self.split else 1
        while True:
            index = self.rx_next
            fields = struct.unpack("<IIIHH", self.memory.read(RX_RING + index * 16, 16))
            if not fields[2] & 1:
                return found
            found.append((*fields, index))
            self.rx_next = (index + units) % self.ring_size

    def descriptors(self) -> list[tuple[int, int, int, int, int]]:
        """As of the legacy ones: (length, status, errors, tag, index)."""
        return [
            (length, status & 0xFF, status >> 24, tag, index)
            for _, _, status, length, tag, index in self.extended()
        ]

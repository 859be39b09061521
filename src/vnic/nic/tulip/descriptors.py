"""The descriptors of both lists of the 21143, and the chip's place in a list (Hardware Reference Manual, chapter 4).

A list is a ring, a chain, or both: each descriptor says where the next one is. It has two buffers, of which a chained
one has the first only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from vnic.memory.guest import GuestMemory
from vnic.memory.shadow import Plan, Range, copy
from vnic.nic.tulip import registers as r
from vnic.pci.dma import Dma

BYTES: Final = 16
MOST_PIECES: Final = 64
"""The most descriptors of one frame, and those that are fetched at once from a VM that does not share its memory."""

OWN: Final = 1 << 31
# Receive: RDES0
ERROR: Final = 1 << 15
FIRST: Final = 1 << 9
LAST: Final = 1 << 8
MULTICAST: Final = 1 << 10
FILTERED: Final = 1 << 30
LENGTH_SHIFT: Final = 16
# Transmit: TDES0
NO_CARRIER: Final = 1 << 15 | 1 << 11 | 1 << 10
# Transmit: TDES1
INTERRUPT: Final = 1 << 31
TX_LAST: Final = 1 << 30
TX_FIRST: Final = 1 << 29
FILTER_UPPER: Final = 1 << 28
SETUP: Final = 1 << 27
NO_PADDING: Final = 1 << 23
FILTER_LOWER: Final = 1 << 22
# of both
_END: Final = 1 << 25
_CHAINED: Final = 1 << 24
_SIZE: Final = 0x7FF
_LONGWORDS: Final = 0xFFFF_FFFC


class Descriptor(NamedTuple):
    where: int
    status: int
    control: int
    buffers: tuple[Range, ...]
    following: int
    """The address of the next one."""

    @property
    def length(self) -> int:
        return sum(length for _, length in self.buffers)


class DescriptorList:
    """`base` gives its first descriptor's address, which is in CSR3 or CSR4. `at` is the next one's."""

    def __init__(self, csr: list[int], base: int) -> None:
        self._csr = csr
        self._base = base
        self.at = 0
        self.known: set[int] = set()
        """Of a VM that does not share its memory: the addresses of those that were fetched."""

    def restart(self) -> None:
        """The guest wrote the address of the list."""
        self.at = self._csr[self._base] & _LONGWORDS
        self.known.clear()

    @property
    def _order(self) -> str:
        return ">" if self._csr[0] & r.DBO else "<"

    def read(self, dma: Dma, where: int) -> Descriptor:
        """Raises GuestMemoryError."""
        status, control, first, second = struct.unpack(f"{self._order}IIII", dma.read(where, BYTES))
        chained = control & _CHAINED
        buffers = [(first, control & _SIZE)]
        if not chained:
            buffers.append((second, control >> 11 & _SIZE))
        if control & _END:
            following = self._csr[self._base]
        elif chained:
            following = second
        else:
            following = where + BYTES + 4 * (self._csr[0] >> r.DSL_SHIFT & r.DSL_MASK)
        full = tuple(each for each in buffers if each[1])
        return Descriptor(where, status, control, full, following & _LONGWORDS)

    def write_status(self, dma: Dma, where: int, status: int) -> None:
        """Raises GuestMemoryError."""
        dma.write(where, struct.pack(f"{self._order}I", status))

    def plan(self, memory: GuestMemory, buffers: Callable[[Descriptor], tuple[Range, ...]]) -> Plan:
        """Fetch the next descriptors that are the chip's, with the buffers that it reads, and the one after them."""
        self.known.clear()
        found: list[int] = []
        at = self.at
        for _ in range(MOST_PIECES):
            yield from copy(memory, [(at, BYTES)])
            each = self.read(memory, at)
            found.append(at)
            if not each.status & OWN:
                break
            yield from copy(memory, list(buffers(each)))
            at = each.following
        self.known.update(found)

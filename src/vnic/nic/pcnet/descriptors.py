"""The descriptors of both rings in the chip's software styles, and the chip's place in a ring (data sheet, "Buffer
Management" and "Initialization Block").

A descriptor is the chip's while its OWN bit is set. It goes back to the guest in an order in which no guest can see
half of it: the other fields first, OWN last.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Final, NamedTuple

from vnic.memory.shadow import Range, Shadow
from vnic.nic.pcnet import registers as r
from vnic.nic.pcnet.registers import Registers
from vnic.pci.dma import Dma

# Status of a descriptor (RMD1, TMD1)
OWN: Final = 0x8000
ERR: Final = 0x4000
STP: Final = 0x0200
ENP: Final = 0x0100
# of receive
RX_BUFF: Final = 0x0400
PAM: Final = 0x0040
LAFM: Final = 0x0020
BAM: Final = 0x0010
# of transmit
ADD_FCS: Final = 0x2000
LTINT: Final = 0x1000
# TMD2
TX_BUFF: Final = 0x8000_0000
UFLO: Final = 0x4000_0000
LCAR: Final = 0x0800_0000

_ONES: Final = 0xF000
_MOST_BYTES: Final = 4096
_MOST_LOG_LENGTH: Final = 9
_LANCE = struct.Struct("<IHH")  # address and status, BCNT, RMD2 or the upper half of TMD2
_PCNET = struct.Struct("<IHHII")  # address, BCNT, status, RMD2 or TMD2, the guest's
_BURST = struct.Struct("<IHHII")  # RMD2 or TMD2, BCNT, status, address, the guest's
assert (_LANCE.size, _PCNET.size, _BURST.size) == (8, 16, 16)
LANCE_STYLE: Final = 0
BURST_STYLE: Final = 3
STYLES: Final = range(4)
"""SWSTYLE of BCR20: the LANCE's, the ILACC's and the PCnet-PCI's, which differ in nothing here, and its reordered one
for bursts."""


class Descriptor(NamedTuple):
    where: int
    """Its own address."""
    address: int
    """Its buffer's."""
    length: int
    status: int
    sound: bool
    """The bits that must be ones are ones."""


class Ring:
    """The chip's place in one ring: base, length and counter are CSRs. The counter counts down from the length.

    All three are the guest's to write while the chip is stopped, so that none is believed.
    """

    def __init__(self, registers: Registers, base: int, length: int, counter: int, shown: int) -> None:
        self._registers = registers
        self._base, self._length, self._counter, self._shown = base, length, counter, shown
        self._resets = 0

    @property
    def usable(self) -> bool:
        return bool(self.count and self._registers.address(self._base))

    @property
    def count(self) -> int:
        return self._registers.cells[self._length]

    @property
    def index(self) -> int:
        """The descriptor that is next; only of a `usable` ring."""
        return (self.count - self._registers.cells[self._counter]) % self.count

    @property
    def style(self) -> int:
        return self._registers.cells[r.BCR + r.SWS] & 0xFF

    def set_up(self, base: int, log_length: int) -> None:
        self._resets += 1
        cells, length = self._registers.cells, 1 << min(log_length, _MOST_LOG_LENGTH)
        cells[self._base], cells[self._base + 1] = base & 0xFFFF, base >> 16
        cells[self._length] = cells[self._counter] = length
        cells[self._shown] = 0

    def address(self, ahead: int) -> int:
        """The address of the descriptor that is `ahead` of the next one."""
        return self._registers.address(self._base) + (self.index + ahead) % self.count * self._size

    def ranges(self, count: int) -> list[Range]:
        """The memory of the next descriptors."""
        before_end = min(count, self.count - self.index)
        found = [(self.address(0), before_end * self._size)]
        if before_end < min(count, self.count):
            found.append((self.address(before_end), (min(count, self.count) - before_end) * self._size))
        return found

    @property
    def _size(self) -> int:
        return _LANCE.size if self.style == LANCE_STYLE else _PCNET.size

    def read(self, dma: Dma, ahead: int) -> Descriptor:
        """Raises GuestMemoryError."""
        where = self.address(ahead)
        if self.style == LANCE_STYLE:
            first, bcnt, _ = _LANCE.unpack(dma.read(where, _LANCE.size))
            address = self._registers.physical(first)
            status = first >> 16 & 0xFF00
        elif self.style == BURST_STYLE:
            _, bcnt, status, address, _ = _BURST.unpack(dma.read(where, _BURST.size))
        else:
            address, bcnt, status, _, _ = _PCNET.unpack(dma.read(where, _PCNET.size))
        length = _MOST_BYTES - (bcnt & ~_ONES)
        return Descriptor(where, address, length, status, bcnt & _ONES == _ONES)

    def give_back(self, dma: Dma, each: Descriptor, status: int, more: int, *, lance_more: int) -> None:
        """Give a descriptor to the guest. `more` is RMD2 or TMD2, `lance_more` the half of it in the LANCE's style.
        Raises GuestMemoryError."""
        if self.style == LANCE_STYLE:
            dma.write(each.where + 6, lance_more.to_bytes(2, "little"))
            dma.write(each.where + 3, bytes((status >> 8,)))
            return
        dma.write(each.where + (0 if self.style == BURST_STYLE else 8), more.to_bytes(4, "little"))
        dma.write(each.where + 6, status.to_bytes(2, "little"))

    def advance(self, count: int) -> None:
        """The chip is done with so many descriptors; they need not be the guest's yet."""
        cells = self._registers.cells
        cells[self._counter] = self.count - (self.index + count) % self.count

    def all_shown(self, shadow: Shadow | None) -> None:
        """All descriptors before `index` are the guest's; `shadow`: as soon as it gets what was written."""
        if shadow is None:
            self._registers.cells[self._shown] = self.index
        else:
            shadow.when_sent(partial(self._set_shown, self.index, self._resets))

    def _set_shown(self, index: int, resets: int) -> None:
        if resets == self._resets:
            self._registers.cells[self._shown] = index

    # --- After a kill ---

    def unshown(self) -> int:
        """How many descriptors before `index` may not be the guest's yet."""
        shown = self._registers.cells[self._shown]
        return (self.index - shown) % self.count if self.usable and shown < self.count else 0

    def flags_at(self, ahead: int) -> int:
        """The address of the byte with OWN."""
        return self.address(ahead) + (3 if self.style == LANCE_STYLE else 7)

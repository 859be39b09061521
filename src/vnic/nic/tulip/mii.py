"""The management bus of the MII, which a driver clocks bit by bit in CSR9 (IEEE 802.3 §22.2.4.5)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from vnic.nic.tulip.link import Link
from vnic.record import U16, U32, Record

_HEADER_BITS: Final = 14  # start, operation, PHY, register
_START: Final = 0b01
_READ: Final = 0b10
_WRITE: Final = 0b01
_FRAME_BITS: Final = 32


class MiiRecord(Record, frozen=True):
    """A frame in the middle: the bits so far, and of a read what is to be shown."""

    bits: U32
    count: Annotated[int, msgspec.Meta(ge=0, lt=_FRAME_BITS)]
    data: U16 | None
    out: bool


class Mii:
    """The bus. `out` is the level of MDI."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.reset()

    def reset(self) -> None:
        self._bits = self._count = 0
        self._data: int | None = None
        self.out = True

    def clock(self, bit: bool) -> None:
        """A rising edge of MDC with this level of MDO."""
        if not self._count and bit:
            return  # the preamble
        self._count += 1
        self._bits = (self._bits << 1 | bit) & 0xFFFF_FFFF
        if self._count == _HEADER_BITS:
            start, operation = self._bits >> 12 & 3, self._bits >> 10 & 3
            if start != _START or operation not in (_READ, _WRITE):
                self.reset()
            elif operation == _READ:
                self._data = self._link.read_phy(self._bits >> 5 & 31, self._bits & 31)
        elif self._data is not None and self._count > _HEADER_BITS + 1:
            self.out = (
                bool(self._data >> (_FRAME_BITS - 1 - self._count) & 1) if self._count < _FRAME_BITS else True
            )
        if self._count == _FRAME_BITS:
            if self._data is None:
                self._link.write_phy(self._bits >> 23 & 31, self._bits >> 18 & 31, self._bits & 0xFFFF)
            self.reset()

    def save(self) -> MiiRecord:
        return MiiRecord(bits=self._bits, count=self._count, data=self._data, out=self.out)

    def restore(self, record: MiiRecord) -> None:
        self._bits, self._count, self._data, self.out = record.bits, record.count, record.data, record.out

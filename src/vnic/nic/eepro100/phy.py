"""The link as the guest sees it: the 82555's registers behind MDI control (SDM §6.3.6), and general status.

Linux's e100 looks at BMSR every two seconds (mii_link_ok), as no cause of the chip tells of its link; others look at
general status. A read of either with the new state is what "the guest saw it" means. QEMU's model has a link that is
always up; here it follows the cable, at once and without a negotiation that takes time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vnic.record import U16, U32, Record, require

_PHY: Final = 1  # its address
_WRITE: Final = 1
_READ: Final = 2
_READY: Final = 1 << 28
_INTERRUPT: Final = 1 << 29

_BMCR: Final = 0
_BMSR: Final = 1
_ANAR: Final = 4
_ANLPAR: Final = 5
_REGISTERS: Final = 7

_BMCR_RESET: Final = 0x8000
_BMCR_RESTART: Final = 0x0200
_BMCR_DEFAULT: Final = 0x3000  # 100 Mb/s, negotiation
_BMSR_FIXED: Final = 0x7809  # all modes of 10 and 100 Mb/s, negotiation able, extended registers
_BMSR_LINK: Final = 0x0004
_BMSR_NEGOTIATED: Final = 0x0020
_ID: Final = (0x02A8, 0x0154)
_ANAR_DEFAULT: Final = 0x05E1
_ANAR_WRITABLE: Final = 0x3FE0
_PARTNER: Final = 0x41FE
_ANER: Final = 0x0001
_GENERAL_STATUS_UP: Final = 0x07  # full duplex, 100 Mb/s, link


class PhyRecord(Record, frozen=True):
    up: bool
    mdi: U32
    control: U16
    advertised: U16

    def check_fields(self) -> None:
        transient = self.control & (_BMCR_RESET | _BMCR_RESTART)
        require(not transient, "control", f"is {self.control:#x}")
        surplus = (self.advertised ^ _ANAR_DEFAULT) & ~_ANAR_WRITABLE
        require(not surplus, "advertised", f"is {self.advertised:#x}")


class Phy:
    """`seen(up)` is called at each read of the link."""

    def __init__(self, seen: Callable[[bool], None]) -> None:
        self._seen = seen
        self.up = False
        self.reset()

    def reset(self) -> None:
        """The link stays as it is."""
        self._mdi = _PHY << 21
        self._reset_registers()

    def _reset_registers(self) -> None:
        self._control = _BMCR_DEFAULT
        self._advertised = _ANAR_DEFAULT

    def read_mdi(self) -> int:
        """An access is done at once."""
        return self._mdi | _READY

    def write_mdi(self, value: int) -> bool:
        """An access; returns whether an interrupt is to tell that it is done."""
        operation, address, number = value >> 26 & 3, value >> 21 & 31, value >> 16 & 31
        data = value & 0xFFFF
        if address != _PHY or number >= _REGISTERS or operation not in (_READ, _WRITE):
            data = 0
        elif operation == _READ:
            data = self._read(number)
        else:
            self._write(number, data)
        self._mdi = value & 0xFFFF0000 & ~_READY | data
        return bool(value & _INTERRUPT)

    def _read(self, number: int) -> int:
        if number == _BMSR:
            self._seen(self.up)
            return _BMSR_FIXED | (_BMSR_LINK | _BMSR_NEGOTIATED) * self.up
        if number == _BMCR:
            return self._control
        if number == _ANAR:
            return self._advertised
        if number == _ANLPAR:
            return _PARTNER * self.up
        return (*(0, 0), *_ID, 0, 0, _ANER)[number]

    def _write(self, number: int, data: int) -> None:
        if number == _BMCR and data & _BMCR_RESET:
            self._reset_registers()
        elif number == _BMCR:
            self._control = data & ~_BMCR_RESTART
        elif number == _ANAR:
            self._advertised = _ANAR_DEFAULT & ~_ANAR_WRITABLE | data & _ANAR_WRITABLE

    def general_status(self) -> int:
        self._seen(self.up)
        return _GENERAL_STATUS_UP * self.up

    def save(self) -> PhyRecord:
        return PhyRecord(up=self.up, mdi=self._mdi, control=self._control, advertised=self._advertised)

    def restore(self, record: PhyRecord) -> None:
        self.up, self._mdi = record.up, record.mdi
        self._control, self._advertised = record.control, record.advertised

"""The 93C46 with the MAC address, and 9346CR, which has its wires and the lock of the config registers (§6.10).

Linux reads the address from here at probe, bit by bit.
"""

from __future__ import annotations

import struct
from typing import Final

from vnic.nic.microwire import WORDS, Microwire, MicrowireRecord
from vnic.record import U8, Record, require

_MODE: Final = 0xC0
_AUTOLOAD: Final = 0x40
_PROGRAM: Final = 0x80
_CONFIG_WRITE: Final = 0xC0
_SELECT: Final = 0x08
_CLOCK: Final = 0x04
_DATA_IN: Final = 0x02
_DATA_OUT: Final = 0x01
_KEPT: Final = _MODE | _SELECT | _CLOCK | _DATA_IN

_SIGNATURE: Final = 0x8129
_MAC_AT: Final = 7


class EepromRecord(Record, frozen=True):
    control: U8
    bus: MicrowireRecord

    def check_fields(self) -> None:
        mode = self.control & _MODE
        require(not self.control & ~_KEPT and mode != _AUTOLOAD, "control", f"is {self.control:#x}")


class Eeprom:
    """The memory and 9346CR."""

    def __init__(self, vendor: int, device: int) -> None:
        self._words = [_SIGNATURE, vendor, device, *[0] * (WORDS - 3)]
        self._bus = Microwire(self._words)
        self._control = 0

    def program(self, mac: bytes) -> None:
        self._words[_MAC_AT : _MAC_AT + 3] = struct.unpack("<3H", mac)

    @property
    def mac(self) -> bytes:
        return struct.pack("<3H", *self._words[_MAC_AT : _MAC_AT + 3])

    def reset(self) -> None:
        self._control = 0
        self._bus.deselect()

    @property
    def unlocked(self) -> bool:
        """The config registers can be written."""
        return self._control & _MODE == _CONFIG_WRITE

    def read(self) -> int:
        shown = self._control & _SELECT and self._control & _MODE == _PROGRAM and self._bus.out
        return self._control | (_DATA_OUT if shown else 0)

    def write(self, value: int) -> bool:
        """Returns whether that is auto-load: the chip is reset."""
        before, self._control = self._control, value & _KEPT
        if value & _MODE == _AUTOLOAD:
            self.reset()
            return True
        if value & _MODE != _PROGRAM or not value & _SELECT:
            self._bus.deselect()
        elif value & ~before & _CLOCK:
            self._bus.clock(bool(value & _DATA_IN))
        return False

    def save(self) -> EepromRecord:
        return EepromRecord(control=self._control, bus=self._bus.save())

    def restore(self, record: EepromRecord) -> None:
        self._control = record.control
        self._bus.restore(record.bus)

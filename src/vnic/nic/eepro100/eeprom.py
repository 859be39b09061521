"""The 93C46 behind EEPROM control (SDM §6.3.5), which drivers read at probe, bit by bit."""

from __future__ import annotations

import struct
from typing import Final

from vnic.nic.eepro100.models import Model
from vnic.nic.microwire import WORDS, Microwire, MicrowireRecord
from vnic.record import U8, Record, require

_CLOCK: Final = 0x01
_SELECT: Final = 0x02
_DATA_IN: Final = 0x04
_DATA_OUT: Final = 0x08
_KEPT: Final = _CLOCK | _SELECT | _DATA_IN

_ID_AT: Final = 5
_PHY_AT: Final = 6
_SUM: Final = 0xBABA


class EepromRecord(Record, frozen=True):
    pins: U8
    bus: MicrowireRecord

    def check_fields(self) -> None:
        require(not self.pins & ~_KEPT, "pins", f"are {self.pins:#x}")


class Eeprom:
    """The memory and the register."""

    def __init__(self, model: Model) -> None:
        self._words = [0] * WORDS
        self._words[_ID_AT] = model.eeprom_id
        self._words[_PHY_AT] = 1
        self._bus = Microwire(self._words)
        self._pins = 0

    def program(self, mac: bytes) -> None:
        self._words[:3] = struct.unpack("<3H", mac)
        self._words[-1] = (_SUM - sum(self._words[:-1])) & 0xFFFF

    def reset(self) -> None:
        self._pins = 0
        self._bus.deselect()

    def read(self) -> int:
        return self._pins | _DATA_OUT * self._bus.out

    def write(self, value: int) -> None:
        rising = value & ~self._pins & _CLOCK
        self._pins = value & _KEPT
        if not value & _SELECT:
            self._bus.deselect()
        elif rising:
            self._bus.clock(bool(value & _DATA_IN))

    def save(self) -> EepromRecord:
        return EepromRecord(pins=self._pins, bus=self._bus.save())

    def restore(self, record: EepromRecord) -> None:
        self._pins = record.pins
        self._bus.restore(record.bus)

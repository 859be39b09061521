"""The 8254x's EEPROM: its words, and the Microwire bus behind EECD that the guest clocks bit by bit.

The device model passes writes of EECD to it. Linux reads the whole EEPROM this way at probe.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec

from vnic.nic.intel import cells as c
from vnic.nic.intel.e1000.models import SUBSYSTEM, SUBSYSTEM_VENDOR, VENDOR_INTEL, Model
from vnic.nic.intel.nvm import WORDS, EerdLayout, Nvm, NvmRecord
from vnic.record import U8, U16, Record, require

# EECD, SDM §13.4.3
_SK = 1 << 0
_CS = 1 << 1
_DI = 1 << 2
_DO = 1 << 3
_FWE = 3 << 4
_REQ = 1 << 6
_GNT = 1 << 7
_PRES = 1 << 8
_KEPT = _SK | _CS | _DI | _FWE | _REQ
_COMMAND_BITS = 8  # two of opcode, six of address
_READ = 0b10  # Microwire opcode, behind the start bit

EERD = EerdLayout(done=1 << 4, address_shift=8, address_mask=0xFF)  # SDM §13.4.4


def template(model: Model) -> dict[int, int]:
    """The words with settings for the driver and the chip (SDM §5.6)."""
    return {
        3: 0,  # compatibility
        5: 0,  # version
        6: 0,
        7: 0,
        # Initialization control 1: valid signature (01 in bits 15:14), ids are loaded from here (bits 1:0).
        10: 0x6403,
        11: SUBSYSTEM,
        12: SUBSYSTEM_VENDOR,
        13: model.device_id,
        14: VENDOR_INTEL,
        # Initialization control 2: both pause bits (13:12), so that drivers offer flow control. Bit 2, the 82544's
        # wake-up enable, is clear.
        15: 0x3040,
        33: 0,
        34: 0x0F04,
        35: 0x7FFF,
        36: 0x4901,  # initialization control 3; APM Enable (bit 10) is clear: there is no wake-up
    }


class _MicrowireState(Enum):
    IDLE = "idle"
    """No start bit yet."""
    COMMAND = "command"
    READING = "reading"
    OTHER = "other"
    """A write, an erase or an enable: accepted, without effect."""


_STATES = tuple(_MicrowireState)


def _unpacked(word: int) -> tuple[int, _MicrowireState, int, int, int]:
    """The pins, the state, what was shifted in, the bits and the output, as `Eeprom._keep` packs them."""
    return (
        word & 0xFFFF,
        _STATES[word >> 16 & 3],
        word >> 18 & 0xFF,
        word >> 26 & 0xFFFF,
        word >> 42 & 1,
    )


class EepromRecord(Record, frozen=True):
    """The bus in the middle of a command, and EERD."""

    nvm: NvmRecord
    pins: U16
    state: _MicrowireState
    shifted: U8
    bits: Annotated[int, msgspec.Meta(ge=0, lt=WORDS * 16)]
    """Of a command: how many were clocked in. Of a read: the next bit of the memory."""
    out: bool

    def check_fields(self) -> None:
        require(not self.pins & ~_KEPT, "pins", f"are {self.pins:#x}")
        begun = self.state is _MicrowireState.COMMAND
        require(not begun or self.bits < _COMMAND_BITS, "bits", f"are {self.bits} of a command")


class Eeprom(Nvm):
    """The memory, its bus and both registers. A guest cannot change a word."""

    def __init__(self, model: Model) -> None:
        self.cells = c.plain()
        super().__init__(template(model), EERD)

    def reset(self) -> None:
        super().reset()
        self._pins = 0
        self._deselect()
        self._keep()

    def save(self) -> EepromRecord:
        return EepromRecord(
            nvm=self.save_nvm(),
            pins=self._pins,
            state=self._state,
            shifted=self._shifted,
            bits=self._bits,
            out=bool(self._out),
        )

    def restore(self, record: EepromRecord) -> None:
        self.restore_nvm(record.nvm)
        self._pins, self._state, self._shifted = record.pins, record.state, record.shifted
        self._bits, self._out = record.bits, int(record.out)
        self._keep()

    def check(self, cells: memoryview) -> None:
        """Raise RecordError unless the cell has a state of the bus."""
        pins, state, _, bits, _ = _unpacked(cells[c.EEPROM])
        fits = not pins & ~_KEPT and (state is not _MicrowireState.COMMAND or bits < _COMMAND_BITS)
        require(fits and bits < WORDS * 16, f"cells[{c.EEPROM}]", "is no state of the EEPROM's bus")

    def take_up(self) -> None:
        """Go on as the cell says, which was checked."""
        self._pins, self._state, self._shifted, self._bits, self._out = _unpacked(self.cells[c.EEPROM])

    def _keep(self) -> None:
        state = _STATES.index(self._state)
        word = self._pins | state << 16 | (self._shifted & 0xFF) << 18 | self._bits << 26 | self._out << 42
        self.cells[c.EEPROM] = word

    def _deselect(self) -> None:
        self._state = _MicrowireState.IDLE
        self._shifted = 0
        self._bits = 0
        self._out = 1

    def read_eecd(self) -> int:
        return self._pins | _GNT | _PRES | (_DO if self._out else 0)

    def write_eecd(self, value: int) -> None:
        """The bus: chip select, and data in at each rising edge of the clock (93C46 datasheet)."""
        rising = value & ~self._pins & _SK
        self._pins = value & _KEPT
        if not value & _CS:
            self._deselect()
        elif rising:
            self._clock(bool(value & _DI))
        self._keep()

    def _clock(self, data_in: bool) -> None:
        if self._state is _MicrowireState.IDLE:
            if data_in:
                self._state = _MicrowireState.COMMAND
        elif self._state is _MicrowireState.COMMAND:
            self._shifted = self._shifted << 1 | data_in
            self._bits += 1
            if self._bits == _COMMAND_BITS:
                self._state = (
                    _MicrowireState.READING if self._shifted >> 6 == _READ else _MicrowireState.OTHER
                )
                self._out = 0 if self._state is _MicrowireState.READING else 1
                self._bits = (self._shifted & 63) * 16
        elif self._state is _MicrowireState.READING:
            # Most significant bit first; a driver that clocks on gets the next word.
            word = self.words[self._bits >> 4 & (WORDS - 1)]
            self._out = word >> (15 - (self._bits & 15)) & 1
            self._bits = (self._bits + 1) % (WORDS * 16)

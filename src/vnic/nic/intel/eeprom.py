"""The EEPROM of a NIC: 64 words behind a Microwire bus that the guest clocks bit by bit, or behind EERD.

The device model passes EECD and EERD on to it. Linux reads all of it through EECD when it probes.
"""

from __future__ import annotations

from enum import Enum, auto

from vnic.nic.intel.e1000.models import (
    SUBSYSTEM,
    SUBSYSTEM_VENDOR,
    VENDOR_INTEL,
    Model,
)

WORDS = 64
CHECKSUM_WORD = 63
CHECKSUM = 0xBABA
"""What all 64 words add up to (SDM §5.6)."""

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
# EERD, SDM §13.4.4
_START = 1 << 0
_DONE = 1 << 4
_READ = 0b10  # Microwire opcode, behind the start bit


def contents(model: Model, mac: bytes) -> list[int]:
    """The words that a driver, or the chip itself, takes its settings from (SDM §5.6)."""
    words = [0xFFFF] * WORDS
    words[0:3] = [mac[at] | mac[at + 1] << 8 for at in (0, 2, 4)]
    words[3] = 0  # compatibility
    words[5] = 0  # version
    words[6:8] = 0, 0
    # Initialization control 1: valid signature (01 in bits 15:14), ids are loaded from here (bits 1:0).
    words[10] = 0x6403
    words[11:15] = SUBSYSTEM, SUBSYSTEM_VENDOR, model.device_id, VENDOR_INTEL
    # Initialization control 2: both pause bits (13:12), so that drivers offer flow control. Bit 2, the 82544's
    # wake-up enable, is clear.
    words[15] = 0x3040
    words[33:36] = 0, 0x0F04, 0x7FFF
    words[36] = 0x4901  # initialization control 3; APM Enable (bit 10) is clear: there is no wake-up
    words[CHECKSUM_WORD] = 0
    words[CHECKSUM_WORD] = (CHECKSUM - sum(words)) & 0xFFFF
    return words


class _MicrowireState(Enum):
    IDLE = auto()
    """No start bit yet."""
    COMMAND = auto()
    READING = auto()
    OTHER = auto()
    """A write, an erase or an enable: taken, and without effect."""


class Eeprom:
    """The memory, its bus and both registers. Nothing a guest clocks in changes a word."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.program(bytes(6))
        self.reset()

    def program(self, mac: bytes) -> None:
        """Write the contents for a NIC of this address."""
        self.words = contents(self._model, mac)

    def reset(self) -> None:
        self._pins = 0
        self._eerd = 0
        self._deselect()

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

    def _clock(self, data_in: bool) -> None:
        if self._state is _MicrowireState.IDLE:
            if data_in:
                self._state = _MicrowireState.COMMAND
        elif self._state is _MicrowireState.COMMAND:
            self._shifted = self._shifted << 1 | data_in
            self._bits += 1
            if self._bits == 8:  # two of opcode, six of address
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

    def read_eerd(self) -> int:
        return self._eerd

    def write_eerd(self, value: int) -> None:
        """A read of one word, done at once."""
        self._eerd = value & 0xFF00
        if value & _START:
            address = value >> 8 & 0xFF
            word = self.words[address] if address < WORDS else 0
            self._eerd |= _DONE | word << 16

"""A 93C46 serial EEPROM of 64 words, as its Microwire bus shows it (the memory's datasheet, "Functional description").

A chip has a register whose bits are the wires; its model finds the edges and calls `deselect` and `clock`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Annotated, NamedTuple

import msgspec

from vnic.record import U8, Record, require

WORDS = 64
_COMMAND_BITS = 8  # two of opcode, six of address
_READ = 0b10  # the opcode behind the start bit


class MicrowireState(Enum):
    IDLE = "idle"
    """No start bit yet."""
    COMMAND = "command"
    READING = "reading"
    OTHER = "other"
    """A write, an erase or an enable: accepted, without effect."""


_STATES = tuple(MicrowireState)


class MicrowireRecord(Record, frozen=True):
    """The bus in the middle of a command."""

    state: MicrowireState
    shifted: U8
    bits: Annotated[int, msgspec.Meta(ge=0, lt=WORDS * 16)]
    """Of a command: how many were clocked in. Of a read: the next bit of the memory."""
    out: bool

    def check_fields(self) -> None:
        require(_is_sound(self.state, self.bits), "bits", f"are {self.bits} of a command")


class _Bus(NamedTuple):
    state: MicrowireState
    shifted: int
    bits: int
    out: int


class Microwire:
    """The memory; a guest cannot change a word. `words` has `WORDS` of them, of 16 bits."""

    def __init__(self, words: Sequence[int]) -> None:
        self.words = words
        self.deselect()

    @property
    def out(self) -> bool:
        """The level of DO."""
        return bool(self._bus.out)

    def deselect(self) -> None:
        """Chip select is low."""
        self._bus = _Bus(MicrowireState.IDLE, 0, 0, 1)

    def clock(self, data_in: bool) -> None:
        """A rising edge of the clock while the chip is selected, with this level of DI."""
        state, shifted, bits, out = self._bus
        if state is MicrowireState.IDLE:
            if data_in:
                state = MicrowireState.COMMAND
        elif state is MicrowireState.COMMAND:
            shifted = (shifted << 1 | data_in) & 0xFF
            bits += 1
            if bits == _COMMAND_BITS:
                reads = shifted >> 6 == _READ
                state = MicrowireState.READING if reads else MicrowireState.OTHER
                out = 0 if reads else 1
                bits = (shifted & 63) * 16
        elif state is MicrowireState.READING:
            # Most significant bit first; a driver that clocks on gets the next word.
            out = self.words[bits >> 4] >> (15 - (bits & 15)) & 1
            bits = (bits + 1) % (WORDS * 16)
        self._bus = _Bus(state, shifted, bits, out)

    # --- State ---

    def save(self) -> MicrowireRecord:
        state, shifted, bits, out = self._bus
        return MicrowireRecord(state=state, shifted=shifted, bits=bits, out=bool(out))

    def restore(self, record: MicrowireRecord) -> None:
        self._bus = _Bus(record.state, record.shifted, record.bits, int(record.out))

    def packed(self) -> int:
        """The same as a word of 27 bits."""
        state, shifted, bits, out = self._bus
        return _STATES.index(state) | shifted << 2 | bits << 10 | out << 26

    def unpack(self, word: int) -> None:
        """Go on as a word of `packed` says, which was checked."""
        self._bus = _unpacked(word)


def is_packed(word: int) -> bool:
    """Whether a bus can be in that state."""
    bus = _unpacked(word)
    return not word >> 27 and _is_sound(bus.state, bus.bits)


def _unpacked(word: int) -> _Bus:
    return _Bus(_STATES[word & 3], word >> 2 & 0xFF, word >> 10 & 0xFFFF, word >> 26 & 1)


def _is_sound(state: MicrowireState, bits: int) -> bool:
    return bits < (_COMMAND_BITS if state is MicrowireState.COMMAND else WORDS * 16)

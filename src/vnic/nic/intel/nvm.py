"""The non-volatile memory of an Intel NIC: 64 words with the MAC, the ids and the settings, read through EERD.

A model passes its words (`e1000/eeprom.py`) and the layout of EERD.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vnic.record import U32, Record

WORDS = 64
CHECKSUM_WORD = 63
CHECKSUM = 0xBABA
"""The sum of all 64 words (SDM §5.6)."""
_START = 1 << 0


class EerdLayout(NamedTuple):
    """The fields of EERD that differ: the bit that says a read is done, and where the address is."""

    done: int
    address_shift: int
    address_mask: int


def contents(template: Mapping[int, int], mac: bytes) -> list[int]:
    """All words: the address in 0 to 2, the model's own, 0xFFFF where it names none, and the checksum."""
    words = [0xFFFF] * WORDS
    for at, word in template.items():
        words[at] = word
    words[0:3] = [mac[at] | mac[at + 1] << 8 for at in (0, 2, 4)]
    words[CHECKSUM_WORD] = 0
    words[CHECKSUM_WORD] = (CHECKSUM - sum(words)) & 0xFFFF
    return words


class NvmRecord(Record, frozen=True):
    """EERD; the words follow from the NIC's model and address."""

    eerd: U32


class Nvm:
    """The words and EERD. A guest cannot change a word."""

    def __init__(self, template: Mapping[int, int], eerd: EerdLayout) -> None:
        self._template = template
        self._layout = eerd
        self.words: list[int] = []
        self.program(bytes(6))
        self.reset()

    def program(self, mac: bytes) -> None:
        """Write the contents for a NIC of this address."""
        self.words = contents(self._template, mac)

    def reset(self) -> None:
        self._eerd = 0

    def save_nvm(self) -> NvmRecord:
        return NvmRecord(eerd=self._eerd)

    def restore_nvm(self, record: NvmRecord) -> None:
        self._eerd = record.eerd

    def read_eerd(self) -> int:
        return self._eerd

    def write_eerd(self, value: int) -> None:
        """A read of one word, done at once."""
        layout = self._layout
        self._eerd = value & layout.address_mask << layout.address_shift
        if value & _START:
            address = value >> layout.address_shift & layout.address_mask
            word = self.words[address] if address < WORDS else 0
            self._eerd |= layout.done | word << 16

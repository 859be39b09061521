"""Base address registers: the size and kind of each window of a device. Device models declare them.

`ConfigSpace` implements their sizing by the guest (PCI 3.0 §6.2.5.1); attachments report them as regions.
"""

from __future__ import annotations

from dataclasses import dataclass

BAR_COUNT = 6
_IO_SPACE = 0x1
_TYPE_64 = 0x4
_PREFETCHABLE = 0x8


@dataclass(frozen=True, slots=True)
class Bar:
    """One window: `index` 0 to 5 (a 64-bit one takes the next index as well), `size` in bytes."""

    index: int
    size: int
    io: bool = False
    is_64bit: bool = False
    prefetchable: bool = False

    def __post_init__(self) -> None:
        smallest = 4 if self.io else 16
        if self.size < smallest or self.size & (self.size - 1):
            raise ValueError(f"BAR {self.index}: {self.size} is no power of two from {smallest} up")
        if self.io and (self.is_64bit or self.prefetchable):
            raise ValueError(f"BAR {self.index}: an I/O window is neither 64-bit nor prefetchable")
        if not 0 <= self.index < BAR_COUNT - self.is_64bit:
            raise ValueError(f"BAR {self.index}: no such register")

    @property
    def registers(self) -> int:
        """The number of the six registers that the window takes."""
        return 2 if self.is_64bit else 1

    @property
    def flags(self) -> int:
        """The read-only low bits of the register."""
        if self.io:
            return _IO_SPACE
        return (_TYPE_64 if self.is_64bit else 0) | (_PREFETCHABLE if self.prefetchable else 0)

    @property
    def address_mask(self) -> int:
        """The bits a guest can write, over all `registers`; sizing reads them back."""
        return (1 << 32 * self.registers) - self.size

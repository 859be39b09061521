"""Registers of one, two and four bytes, and accesses of any width to them.

A model has a table as in its datasheet, and says in `readers` and `writers` which unit serves which register. The
others are plain storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from vnic.record import U32, Record, require

MAX_ACCESS_BYTES: Final = 64
"""The widest load or store of any processor; a longer one can only come from a broken client."""


class SizedRegister(NamedTuple):
    """`size` is one, two or four bytes."""

    name: str
    offset: int
    size: int
    writable: int = 0
    """The bits that a write changes, of a plain register."""
    reset: int = 0
    locked: bool = False
    """It can be written only while the model has these unlocked."""
    narrow: bool = False
    """A byte of it can be written."""


class SizedRegisterFileRecord(Record, frozen=True):
    values: list[U32]
    """Those of the plain registers, in the order of the table."""


class SizedRegisterFile:
    """The registers by their offset. What the table lacks reads as 0 and ignores writes."""

    def __init__(self, table: Sequence[SizedRegister], unlocked: Callable[[], bool]) -> None:
        """`unlocked`: whether locked registers can be written now."""
        self._table = table
        self._plain = [each for each in table if each.writable]
        self._by_offset = {each.offset: each for each in table}
        self._covering = {each.offset + at: each for each in table for at in range(each.size)}
        if sum(each.size for each in table) != len(self._covering):
            raise ValueError("registers overlap")
        self._unlocked = unlocked
        self.values: dict[int, int] = {}
        self.readers: dict[int, Callable[[], int]] = {}
        self.writers: dict[int, Callable[[int], None]] = {}
        """Called after the value of a plain register has changed."""
        self.reset()

    def reset(self) -> None:
        self.values = {each.offset: each.reset for each in self._table if each.writable or each.reset}

    def bytes_at(self, first: int, count: int) -> bytes:
        """The values of registers of one byte in a row."""
        return bytes(self.values[at] for at in range(first, first + count))

    # --- The guest's accesses ---

    def read_window(self, offset: int, length: int) -> bytes:
        if length > MAX_ACCESS_BYTES:
            return bytes(length)
        return b"".join(self._read(at, size).to_bytes(size, "little") for at, size in _pieces(offset, length))

    def write_window(self, offset: int, data: bytes) -> None:
        if len(data) > MAX_ACCESS_BYTES:
            return
        for at, size in _pieces(offset, len(data)):
            self._write(at, size, int.from_bytes(data[at - offset : at - offset + size], "little"))

    def _read(self, offset: int, size: int) -> int:
        """A wide access takes several registers, a narrow one its bytes of a register."""
        register = self._by_offset.get(offset)
        if register is not None and register.size == size:
            return self._value(register)
        if size > 1:
            half = size // 2
            return self._read(offset, half) | self._read(offset + half, half) << 8 * half
        register = self._covering.get(offset)
        return self._value(register) >> 8 * (offset - register.offset) & 0xFF if register is not None else 0

    def _value(self, register: SizedRegister) -> int:
        reader = self.readers.get(register.offset)
        return reader() if reader is not None else self.values.get(register.offset, 0)

    def _write(self, offset: int, size: int, value: int) -> None:
        register = self._by_offset.get(offset)
        if register is not None and register.size == size:
            self._set(register, value)
        elif size > 1:
            half = size // 2
            self._write(offset, half, value & (1 << 8 * half) - 1)
            self._write(offset + half, half, value >> 8 * half)
        elif (register := self._covering.get(offset)) is not None and register.narrow:
            shift = 8 * (offset - register.offset)
            self._set(register, self._value(register) & ~(0xFF << shift) | value << shift)

    def _set(self, register: SizedRegister, value: int) -> None:
        if register.locked and not self._unlocked():
            return
        at, mask = register.offset, register.writable
        if mask:
            value = self.values[at] = self.values[at] & ~mask | value & mask
        writer = self.writers.get(at)
        if writer is not None:
            writer(value)

    # --- State ---

    def save(self) -> SizedRegisterFileRecord:
        return SizedRegisterFileRecord(values=[self.values[each.offset] for each in self._plain])

    def check(self, record: SizedRegisterFileRecord) -> None:
        require(
            len(record.values) == len(self._plain),
            "values",
            f"are {len(record.values)}, not {len(self._plain)}",
        )
        for at, (register, value) in enumerate(zip(self._plain, record.values, strict=True)):
            surplus = (value ^ register.reset) & ~register.writable
            require(not surplus, f"values[{at}]", f"differs in {surplus:#x}, which {register.name} has fixed")

    def restore(self, record: SizedRegisterFileRecord) -> None:
        self.values.update(
            {register.offset: value for register, value in zip(self._plain, record.values, strict=True)}
        )


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """An access as aligned ones of four, two and one bytes."""
    at, end = offset, offset + length
    while at < end:
        size = next(size for size in (4, 2, 1) if not at % size and at + size <= end)
        yield at, size
        at += size

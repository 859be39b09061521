"""The register file of an Intel NIC: a table as in the datasheet, plain registers as storage, and units for the rest.

Each model has a table (`e1000/registers.py`) and says in `readers` and `writers` which unit serves which register.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from functools import partial
from typing import NamedTuple, Protocol

from vnic.nic.intel.rings import DescriptorRing
from vnic.record import U32, Record, RecordError

MAX_ACCESS_BYTES = 64
"""The widest load or store of any processor; a longer one can only come from a broken client."""
IO_BYTES = 0x40  # SDM §13.2 uses the first 8; QEMU's window is 64 bytes
IOADDR = 0x00
IODATA = 0x04


class Access(Enum):
    RW = auto()
    RO = auto()
    WO = auto()
    RC = auto()
    """Read only, and a read clears it: the statistics."""
    UNIT = auto()
    """Reads and writes have effects: a unit of the model serves it."""


class Register(NamedTuple):
    name: str
    offset: int
    access: Access
    mask: int = 0xFFFFFFFF
    """The bits that a write changes."""
    reset: int = 0
    span: int = 1
    """Registers in a row, 4 bytes apart."""


class ValueRecord(Record, frozen=True):
    """The value of a register."""

    offset: U32
    value: U32


class RegisterFileRecord(Record, frozen=True):
    """The plain registers; those that a unit serves are in the unit's record."""

    values: list[ValueRecord]


def values_of(records: Iterable[ValueRecord]) -> dict[int, int]:
    """The values by offset. Raises RecordError for two of one register."""
    values: dict[int, int] = {}
    for at, each in enumerate(records):
        if each.offset in values:
            raise RecordError(f"values[{at}].offset", f"is {each.offset:#x} again")
        values[each.offset] = each.value
    return values


def index(registers: Iterable[Register], aliases: Mapping[int, int]) -> dict[int, Register]:
    """Every 32-bit register of a table, aliases included. Raises ValueError for two at one offset."""
    found: dict[int, Register] = {}
    for register in registers:
        for offset in range(register.offset, register.offset + 4 * register.span, 4):
            if offset in found:
                raise ValueError(f"{register.name} and {found[offset].name} are both at {offset:#x}")
            found[offset] = register
    for alias, offset in aliases.items():
        if alias in found:
            raise ValueError(f"the alias {alias:#x} of {found[offset].name} is {found[alias].name}")
        found[alias] = found[offset]
    return found


class RegisterFile:
    """The registers by their offset. Values are 32 bits; an offset that the table lacks reads as 0 and ignores writes.

    `readers` and `writers` hold what a unit serves, by offset; a writer gets the value masked to the register's bits.
    """

    def __init__(self, table: Mapping[int, Register], aliases: Mapping[int, int]) -> None:
        self._table = table
        self._aliases = aliases
        self._reset_values = {each.offset: each.reset for each in table.values() if each.reset}
        self.values: dict[int, int] = {}
        """The plain registers."""
        self.readers: dict[int, Callable[[], int]] = {}
        self.writers: dict[int, Callable[[int], None]] = {}

    def reset(self) -> None:
        self.values.clear()
        self.values.update(self._reset_values)

    def save(self) -> RegisterFileRecord:
        return RegisterFileRecord(
            values=[ValueRecord(offset=offset, value=value) for offset, value in sorted(self.values.items())]
        )

    def check(self, record: RegisterFileRecord) -> None:
        values_of(record.values)
        for at, (offset, value) in enumerate((each.offset, each.value) for each in record.values):
            register = self._table.get(offset)
            if register is None or offset in self._aliases or register.access not in (Access.RW, Access.UNIT):
                raise RecordError(f"values[{at}].offset", f"is {offset:#x}, where no value is stored")
            surplus = value & ~register.mask
            if surplus:
                raise RecordError(f"values[{at}].value", f"has {surplus:#x}, which {register.name} has not")

    def restore(self, record: RegisterFileRecord) -> None:
        self.check(record)
        self.values.clear()
        self.values.update(values_of(record.values))

    def read(self, offset: int) -> int:
        """A guest's read of the register at `offset`, a multiple of four."""
        offset = self._aliases.get(offset, offset)
        reader = self.readers.get(offset)
        return reader() if reader is not None else self.values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """A guest's write."""
        offset = self._aliases.get(offset, offset)
        register = self._table.get(offset)
        if register is None:
            return
        writer = self.writers.get(offset)
        if writer is not None:
            writer(value & register.mask)
        elif register.access is Access.RW:
            self.values[offset] = value & register.mask

    def serve_counters(self, read: Callable[[int], int]) -> None:
        """Have `read(offset)` answer for the registers that a read clears."""
        for offset, register in self._table.items():
            if register.access is Access.RC:
                self.readers[offset] = partial(read, offset)

    def serve_ring(self, first: int, ring: DescriptorRing, moved: Callable[[], None]) -> None:
        """A ring's registers, which lie in this order in all models: base, length, head, tail. `moved` follows a write
        to any but the tail, whose writer is the model's."""

        def write(name: str, value: int) -> None:
            setattr(ring, name, value)
            ring.keep_head()
            ring.keep_written()
            moved()

        for name, at in (("base_low", 0), ("base_high", 4), ("length_bytes", 8), ("head", 16)):
            self.readers[first + at] = partial(getattr, ring, name)
            self.writers[first + at] = partial(write, name)
        self.readers[first + 24] = partial(getattr, ring, "posted_tail")


class Registers(Protocol):
    """A window of registers: 32-bit registers at multiples of four."""

    def read(self, offset: int, /) -> int: ...

    def write(self, offset: int, value: int, /) -> None: ...


def read_window(registers: Registers, offset: int, length: int) -> bytes:
    """A guest's read of any width: a narrow one takes its bytes of a register, a wide one several registers."""
    if length == 4 and not offset & 3:
        return registers.read(offset).to_bytes(4, "little")
    if length > MAX_ACCESS_BYTES:
        return bytes(length)
    start = offset & ~3
    data = b"".join(registers.read(at).to_bytes(4, "little") for at in range(start, offset + length, 4))
    return data[offset - start : offset - start + length]


def write_window(registers: Registers, offset: int, data: bytes) -> None:
    """Only whole registers can be written (SDM §13.2); the rest is ignored."""
    if offset & 3 or len(data) & 3 or len(data) > MAX_ACCESS_BYTES:
        return
    for at in range(0, len(data), 4):
        registers.write(offset + at, int.from_bytes(data[at : at + 4], "little"))


class IoWindow:
    """The I/O window (SDM §13.2): IOADDR chooses the register behind IODATA. `size` is that of the memory window."""

    def __init__(self, registers: Registers, size: int) -> None:
        self._registers = registers
        self._last = size - 4
        self.address = 0

    def reset(self) -> None:
        self.address = 0

    def read(self, offset: int) -> int:
        if offset == IOADDR:
            return self.address
        if offset == IODATA and self.address <= self._last:
            return self._registers.read(self.address & ~3)
        return 0

    def write(self, offset: int, value: int) -> None:
        if offset == IOADDR:
            self.address = value
        elif offset == IODATA and self.address <= self._last:
            self._registers.write(self.address & ~3, value)

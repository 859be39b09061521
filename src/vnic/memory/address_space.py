"""Limits on the address space and the mappings that guest memory may use, for one guest and for all together.

`memory.mapping` counts each mapping here; `-guest-memory` sets the limits. A sparse memory file of 100 TiB costs a
guest nothing, but would leave no addresses for the other guests.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from vnic.memory import sigbus

GUEST_BYTES: Final = 1 << 40
HOST_MEMORY_FACTOR: Final = 4
"""The limit for one guest is the larger of GUEST_BYTES and HOST_MEMORY_FACTOR times the host's memory."""
_MAX_MAP_COUNT: Final = "/proc/sys/vm/max_map_count"
_USUAL_MAP_COUNT: Final = 65530


def in_units(size: int) -> str:
    """`128 TiB`, or `4097 bytes` where no larger unit divides the size."""
    for power, unit in ((50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size and not size & ((1 << power) - 1):
            return f"{size >> power} {unit}"
    return f"{size} bytes"


class NoRoom(Exception):
    """A mapping would exceed a limit; the text names the size and the limit."""


class AddressSpace:
    """The limits and the current use."""

    def __init__(self, guest_bytes: int, total_bytes: int, mappings: int) -> None:
        self.guest_bytes = guest_bytes
        self.total_bytes = total_bytes
        self.max_mappings = mappings
        self.mapped_bytes = 0
        self.mappings = 0

    def limit(self, guest_bytes: int | None, total_bytes: int | None) -> None:
        """Set the limits that are not None; the limit for one guest never exceeds the total.

        Raises NoRoom for a limit of 0, and for one above this process's address space."""
        if min(1 if each is None else each for each in (guest_bytes, total_bytes)) < 1:
            raise NoRoom("a limit of 0 would let no VM share its memory")
        if total_bytes is not None and total_bytes > 2 * self.total_bytes:
            raise NoRoom(
                f"{in_units(total_bytes)} are above the address space of {in_units(2 * self.total_bytes)}"
            )
        total = self.total_bytes if total_bytes is None else total_bytes
        if guest_bytes is not None and guest_bytes > total:
            raise NoRoom(f"{in_units(guest_bytes)} for one guest are above the {in_units(total)} for all")
        self.total_bytes = total
        self.guest_bytes = min(self.guest_bytes if guest_bytes is None else guest_bytes, total)

    def check_guest(self, size: int) -> None:
        """Raise NoRoom if `size` bytes exceed the limit for one guest."""
        if size > self.guest_bytes:
            raise NoRoom(
                f"{in_units(size)} of memory are above the limit of {in_units(self.guest_bytes)} for one guest"
                " (-guest-memory max=)"
            )

    def take(self, size: int) -> None:
        """Count a mapping before it is made. Raises NoRoom."""
        if size > self.total_bytes - self.mapped_bytes:
            raise NoRoom(
                f"{in_units(size)} beside the {in_units(self.mapped_bytes)} that are mapped already are above the"
                f" limit of {in_units(self.total_bytes)} for all guests (-guest-memory total=)"
            )
        if self.mappings >= self.max_mappings:
            raise NoRoom(
                f"the guests have {self.mappings} mappings, all that they may have (half of vm.max_map_count)"
            )
        self.mapped_bytes += size
        self.mappings += 1

    def give_back(self, size: int) -> None:
        """Uncount a mapping that was removed."""
        self.mapped_bytes -= size
        self.mappings -= 1


def _max_map_count() -> int:
    try:
        with open(_MAX_MAP_COUNT, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # no /proc, as in some chroots
        return _USUAL_MAP_COUNT


def of_this_process() -> AddressSpace:
    """The default limits: half of the address space and half of the mappings for all guests."""
    with mmap.mmap(-1, mmap.PAGESIZE) as probe:
        # The kernel maps from the top down, so that an address has all its bits: 47 on x86-64, 39 to 52 on aarch64.
        total = 1 << (sigbus.address_of(probe).bit_length() - 1)
    memory = os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES")
    guest = max(GUEST_BYTES, HOST_MEMORY_FACTOR * memory)
    return AddressSpace(min(guest, total), total, _max_map_count() // 2)


SPACE: Final = of_this_process()
"""A process has one."""

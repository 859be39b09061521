"""How much of this process's address space the memory of guests may take: one guest's, and that of all together.

A sparse memory file of 100 TiB costs a guest nothing, and would leave no addresses for the other guests; nor may they
use up the mappings that the kernel allows a process. Every mapping of guest memory is counted here.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from vnic.memory import sigbus

GUEST_BYTES: Final = 1 << 40
HOST_MEMORY_FACTOR: Final = 4
"""One guest may map the first, or the host's memory so many times where that is more."""
_MAX_MAP_COUNT: Final = "/proc/sys/vm/max_map_count"
_USUAL_MAP_COUNT: Final = 65530


def in_units(size: int) -> str:
    """`128 TiB`, or `4097 bytes` where it is not even."""
    for power, unit in ((50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size and not size & ((1 << power) - 1):
            return f"{size >> power} {unit}"
    return f"{size} bytes"


class NoRoom(Exception):
    """A mapping that would be above a limit; the text names both."""


class AddressSpace:
    """The limits, and what of them is used."""

    def __init__(self, guest_bytes: int, total_bytes: int, mappings: int) -> None:
        self.guest_bytes = guest_bytes
        self.total_bytes = total_bytes
        self.max_mappings = mappings
        self.mapped_bytes = 0
        self.mappings = 0

    def limit(self, guest_bytes: int | None, total_bytes: int | None) -> None:
        """Set what is not None; the default for one guest is no more than what all have. Raises NoRoom for less than
        nothing fits into, and for more than this process has."""
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
        """Raise NoRoom where one guest would have more mapped than it may."""
        if size > self.guest_bytes:
            raise NoRoom(
                f"{in_units(size)} of memory are above the limit of {in_units(self.guest_bytes)} for one guest"
                " (-guest-memory max=)"
            )

    def take(self, size: int) -> None:
        """Count a mapping that is to be made. Raises NoRoom."""
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
        """A mapping that was counted is gone."""
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

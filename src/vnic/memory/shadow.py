"""Memory that a guest shares by no file: device models work on a shadow copy of it, which messages keep up to date.

The attachment owns the regions and sends the messages (`Shadow`); a device model says what it is going to read
(`Plan`) before it does, and what it has written. Nothing here is used where a guest shares its memory.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Final, Protocol

from vnic.memory.address_space import NoRoom
from vnic.memory.guest import GuestMemory, GuestMemoryError, Region
from vnic.memory.mapping import GuestMapping

Range = tuple[int, int]
"""Guest address and length in bytes."""
Part = tuple[int, bytes]
"""Guest address, and what is to stand there."""
Plan = Generator[list[Range], list[bytes], None]
"""What a device is going to read, in order of dependence: it yields ranges and is sent their bytes, b"" for a range
that is not mapped. It puts them into the shadow copy, and shows them to the device model last."""

ROUND_BYTES: Final = 1 << 20
"""What one ring may have in the shadow copy for its device model to work on, buffers to be filled included: more than
any frame needs. The rest follows when that is done."""
BUFFER_COST_BYTES: Final = 1024
"""What a buffer takes of that at the least: it is work, however short it is."""
_COPIED_AT_ONCE: Final = 256


class Shadow(Protocol):
    """The way to such memory, as a device model sees it. No call blocks or raises."""

    def fetch(
        self,
        key: Hashable,
        plan: Callable[[], Plan],
        act: Callable[[], None],
        failed: Callable[[GuestMemoryError], None],
        *,
        anew: bool = False,
    ) -> None:
        """Carry `plan` out, then `act`; where one of the same `key` is under way, another round follows it, or
        `anew` takes its place."""

    def write(
        self,
        parts: Sequence[Part],
        done: Callable[[], None],
        failed: Callable[[GuestMemoryError], None],
    ) -> None:
        """Write to the guest's memory, in order; `done` when these and all writes before them are there."""

    def drop(self, quiet: Callable[[], None] | None = None) -> None:
        """The device is reset: no plan and no write goes on, and none is reported. `quiet` is called, now or later,
        when nothing that was sent before can change the guest's memory any more."""


class ShadowRegion(Region):
    """A region's shadow copy: private, zero where nothing was put yet, backed by the kernel only where it is used."""

    def __init__(self, guest_addr: int, size: int, *, writable: bool) -> None:
        super().__init__(guest_addr, size)
        self.writable = writable
        try:
            self.mapping = GuestMapping.private(size)
        except (NoRoom, OSError, ValueError, OverflowError) as error:
            raise GuestMemoryError(f"memory region at {guest_addr:#x} cannot be shadowed: {error}") from None
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self.mapping.madvise(mmap.MADV_NOHUGEPAGE)

    def forget(self) -> None:
        """Give all pages back: zeros again."""
        if self.mapping is not None:
            self.mapping.madvise(mmap.MADV_DONTNEED)


def put(memory: GuestMemory, address: int, data: bytes) -> None:
    """Put what the guest's memory holds into the shadow copy, also where the device may only read.

    Raises GuestMemoryError."""
    at = 0
    for mapping, start, stop in memory.spans(address, len(data)):
        mapping[start:stop] = data[at : at + stop - start]
        at += stop - start


def copy(memory: GuestMemory, ranges: list[Range]) -> Plan:
    """The part of a plan that fetches ranges into the shadow copy, just as they are; a bounded number in one turn."""
    for first in range(0, len(ranges), _COPIED_AT_ONCE):
        some = ranges[first : first + _COPIED_AT_ONCE]
        for (address, _), data in zip(some, (yield some), strict=True):
            put(memory, address, data)


class ShadowDma:
    """`vnic.pci.dma.Dma` on a shadow copy: what is written goes to both."""

    def __init__(
        self, memory: GuestMemory, shadow: Shadow, refused: Callable[[GuestMemoryError], None]
    ) -> None:
        self._memory = memory
        self._shadow = shadow
        self._refused = refused
        self.read = memory.read
        self.slice = memory.slice

    def write(self, address: int, data: bytes | memoryview) -> None:
        self._memory.write(address, data)
        self._shadow.write([(address, bytes(data))], _nothing, self._refused)


def _nothing() -> None:
    pass

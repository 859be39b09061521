"""Shadow copies of memory that a guest shares by no file: messages read and write the guest's memory.

The attachment owns the regions and sends the messages (`Shadow`). A device model declares its reads in advance
(`Plan`) and reports its writes. Memory that a guest shares does not use this module.
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
"""Guest address and the bytes to write there."""
Plan = Generator[list[Range], list[bytes], None]
"""The reads of a device, in order of dependence: the generator yields ranges and is sent their bytes, b"" for a range
that is not mapped. It puts them into the shadow copy; what makes them visible to the device model comes last."""

ROUND_BYTES: Final = 1 << 20
"""Limit on the bytes that one ring fetches in one round, buffers to be filled included: more than any frame needs.
The next round fetches the rest."""
BUFFER_COST_BYTES: Final = 1024
"""The least that one buffer counts against ROUND_BYTES: a short buffer costs time, too."""
_COPIED_AT_ONCE: Final = 256


class Shadow(Protocol):
    """Access to unshared memory, as a device model sees it. No call blocks or raises."""

    def fetch(
        self,
        key: Hashable,
        plan: Callable[[], Plan],
        act: Callable[[], None],
        failed: Callable[[GuestMemoryError], None],
        *,
        anew: bool = False,
    ) -> None:
        """Run `plan`, then call `act`. If a plan of the same `key` is in flight, run `plan` after it, or, with
        `anew`, in place of it."""

    def write(
        self,
        parts: Sequence[Part],
        done: Callable[[], None],
        failed: Callable[[GuestMemoryError], None],
    ) -> None:
        """Write to the guest's memory, in order; call `done` when these writes and all earlier ones are complete."""

    def when_sent(self, act: Callable[[], None]) -> None:
        """Call `act`, now or later, when all writes so far are on their way: they will be carried out."""

    def drop(self, quiet: Callable[[], None] | None = None) -> None:
        """The device is reset: cancel all plans and writes, without a report. `quiet` is called, now or later, when
        no message sent before can change the guest's memory any more."""


class ShadowRegion(Region):
    """A region's shadow copy: private, initially zero, and without memory where it is not used."""

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
        """Free all pages; they read as zeros."""
        if self.mapping is not None:
            self.mapping.madvise(mmap.MADV_DONTNEED)


def put(memory: GuestMemory, address: int, data: bytes) -> None:
    """Put bytes read from the guest's memory into the shadow copy, also into read-only regions.

    Raises GuestMemoryError."""
    at = 0
    for mapping, start, stop in memory.spans(address, len(data)):
        mapping[start:stop] = data[at : at + stop - start]
        at += stop - start


def copy(memory: GuestMemory, ranges: list[Range]) -> Plan:
    """A plan that fetches ranges into the shadow copy unchanged, a bounded number at a time."""
    for first in range(0, len(ranges), _COPIED_AT_ONCE):
        some = ranges[first : first + _COPIED_AT_ONCE]
        for (address, _), data in zip(some, (yield some), strict=True):
            put(memory, address, data)


class ShadowDma:
    """`vnic.pci.dma.Dma` on a shadow copy: writes go to the copy and to the guest."""

    def __init__(
        self, memory: GuestMemory, shadow: Shadow, refused: Callable[[GuestMemoryError], None]
    ) -> None:
        self._memory = memory
        self._shadow = shadow
        self._refused = refused
        self.read = memory.read

    def write(self, address: int, data: bytes | memoryview) -> None:
        self._memory.write(address, data)
        self._shadow.write([(address, bytes(data))], _nothing, self._refused)


def _nothing() -> None:
    pass

"""The saved state of a SplitQueue, without its memory, and its checks: size and addresses of the ring's parts.

`SplitQueue` saves and restores it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from vnic.memory.guest import NO_MEMORY, GuestMemory, GuestMemoryError
from vnic.record import U16, U64, Record, RecordError, require
from vnic.virtio.constants import AVAIL_ALIGN, DESC_ALIGN, DESC_BYTES, QUEUE_SIZE_LIMIT, USED_ALIGN


def areas(size: int, desc: int, avail: int, used: int) -> tuple[tuple[int, int, bool], ...]:
    """Address, bytes, and whether the device writes: descriptor table, available ring, used ring."""
    return (desc, DESC_BYTES * size, False), (avail, 6 + 2 * size, False), (used, 6 + 8 * size, True)


def are_in(memory: GuestMemory, parts: Iterable[tuple[int, int, bool]]) -> bool:
    """Whether `memory` has these areas now."""
    try:
        for addr, length, write in parts:
            memory.span(addr, length, write=write)
    except GuestMemoryError:
        return False
    return True


def is_shared(memory: GuestMemory, addr: int) -> bool:
    """Whether the guest itself sees what is written there; not in a shadow copy."""
    region = memory.find(addr)
    return region is None or region.fd is not None


def faults(max_size: int, size: int, desc: int, avail: int, used: int) -> Iterator[tuple[str, str]]:
    """The errors in a ring's size and addresses, by field."""
    if not 0 < size <= min(max_size, QUEUE_SIZE_LIMIT) or size & (size - 1):
        yield "size", f"size {size} is not a power of two up to {max_size}"
    for field, name, addr, align in (
        ("desc", "descriptor table", desc, DESC_ALIGN),
        ("avail", "available ring", avail, AVAIL_ALIGN),
        ("used", "used ring", used, USED_ALIGN),
    ):
        if addr % align:
            yield field, f"{name} at {addr:#x} is not aligned to {align} bytes"


class QueueRecord(Record, frozen=True):
    """A SplitQueue without its memory. The contents of the ring, such as used.idx and both flags, are not in it."""

    max_size: U16
    size: U16
    desc: U64
    avail: U64
    used: U64
    last_avail: U16
    used_idx: U16
    state: Literal["stopped", "running", "broken"]
    mapped: bool
    """The ring was mapped, and this process processed it."""
    enabled: bool
    indirect: bool
    event_idx: bool
    told_idx: U16 | None
    """used.idx when the driver was last interrupted, or might have been."""
    kicks_suppressed: bool
    resuming: bool
    """It continues at `base`, None being used.idx, when its memory is mapped."""
    base: U16 | None

    def check_fields(self) -> None:
        running = self.state == "running"
        require(running or not self.mapped, "mapped", f"of a ring that is {self.state}")
        require(running or not self.resuming, "resuming", f"of a ring that is {self.state}")
        require(not (self.mapped and self.resuming), "resuming", "of a ring that goes on already")

    def check(self, max_size: int, memory: GuestMemory) -> None:
        """Raise RecordError if a queue of `max_size` in `memory` cannot be restored from this."""
        require(self.max_size == max_size, "max_size", f"is {self.max_size}, not {max_size}")
        require(self.size <= max_size, "size", f"is {self.size}, above {max_size}")
        if self.state != "running":
            return
        for field, why in faults(max_size, self.size, self.desc, self.avail, self.used):
            raise RecordError(field, why)
        if memory is NO_MEMORY:
            raise RecordError("state", "is running, and there is no guest memory")
        parts = areas(self.size, self.desc, self.avail, self.used)
        for field, (addr, length, write) in zip(("desc", "avail", "used"), parts, strict=True):
            try:
                memory.span(addr, length, write=write)
            except GuestMemoryError as error:
                require(not self.mapped, field, str(error))

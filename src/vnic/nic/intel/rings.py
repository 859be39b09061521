"""A ring of 16-byte descriptors in guest memory: its address and the part that the chip owns (SDM §3.2.6, §3.4).

The receive and transmit units use it. The chip owns the descriptors from head up to tail. The guest may write all
four registers at any time, so nothing is cached, and the units check `usable` before each run.
"""

from __future__ import annotations

from functools import partial

from vnic.memory.shadow import Shadow
from vnic.nic.intel import cells as c
from vnic.record import U16, U32, Record

DESCRIPTOR_BYTES = 16


class DescriptorRingRecord(Record, frozen=True):
    """The registers of a ring. Fetched descriptors are not in it: they are fetched again."""

    base_low: U32
    base_high: U32
    length_bytes: U32
    head: U16
    tail: U16


class DescriptorRing:
    """The five registers of a ring. Values are stored as the guest wrote them, masked to the registers' bits.

    `tail` is where the units stop: `posted_tail`, which the guest wrote, or behind it while descriptors are still
    being fetched from a VM that does not share its memory (`pci.dma`).

    A unit moves `head` and calls `keep_head` before the guest can see that a descriptor is done, and `keep_written`
    after it. So the next process knows of all descriptors before the head that they are done, and which of them may
    not show it yet.
    """

    descriptor_bytes = DESCRIPTOR_BYTES

    def __init__(self, first_cell: int) -> None:
        self._first = first_cell
        self._cells = c.plain_ring(first_cell)
        self._resets = 0
        self.flags = 0
        """Beside the head in the cells that `take_up` found."""
        self.reset()

    def reset(self) -> None:
        self._resets += 1
        self.base_low = 0
        self.base_high = 0
        self.length_bytes = 0
        self.head = 0
        self.tail = 0
        self.posted_tail = 0
        self.keep_head()
        self.keep_written()

    @property
    def posted_tail(self) -> int:
        return self._cells[self._first + c.RING.tail]

    @posted_tail.setter
    def posted_tail(self, value: int) -> None:
        self._cells[self._first + c.RING.tail] = value

    def keep_head(self, flags: int = 0) -> None:
        """The descriptors before the head are not for the next process to carry out."""
        self._cells[self._first + c.RING.head] = self.head | flags

    def keep_written(self, shadow: Shadow | None = None) -> None:
        """The guest can see all descriptors before the head as done; `shadow`: as soon as it gets what was written."""
        if shadow is None:
            self._cells[self._first + c.RING.written] = self.head
        else:
            shadow.when_sent(partial(self._keep_written, self.head, self._resets))

    def _keep_written(self, head: int, resets: int) -> None:
        if resets == self._resets:
            self._cells[self._first + c.RING.written] = head

    def use_cells(self, cells: memoryview) -> None:
        """Go on in these cells, whose values are the same."""
        self._cells = cells

    def take_up(self, cells: memoryview) -> range:
        """Go on as these cells say; returns the descriptors before the head that may not be shown as done, as numbers
        from the first of them on without wrapping (`address` of `% count`)."""
        self._cells = cells
        self.head = cells[self._first + c.RING.head] & 0xFFFF
        self.flags = cells[self._first + c.RING.head] & ~0xFFFF
        self.tail = self.posted_tail
        written = cells[self._first + c.RING.written]
        if not self.usable or written >= self.count:
            return range(0)
        return range(written, written + (self.head - written) % self.count)

    def save(self) -> DescriptorRingRecord:
        return DescriptorRingRecord(
            base_low=self.base_low,
            base_high=self.base_high,
            length_bytes=self.length_bytes,
            head=self.head,
            tail=self.posted_tail,
        )

    def restore(self, record: DescriptorRingRecord) -> None:
        self.base_low, self.base_high = record.base_low, record.base_high
        self.length_bytes, self.head = record.length_bytes, record.head
        self.tail = self.posted_tail = record.tail
        self.keep_head()
        self.keep_written()

    @property
    def count(self) -> int:
        return self.length_bytes // DESCRIPTOR_BYTES

    @property
    def usable(self) -> bool:
        """Head and tail lie inside of the ring; SDM §3.2.6 leaves anything else undefined."""
        count = self.length_bytes // DESCRIPTOR_BYTES
        return self.head < count and self.tail < count

    @property
    def available(self) -> int:
        """The number of descriptors that the chip owns; only for a `usable` ring."""
        return (self.tail - self.head) % self.count

    @property
    def posted(self) -> int:
        """The number of descriptors that the guest posted, fetched or not; only for a `usable` ring."""
        return (self.posted_tail - self.head) % self.count

    def address(self, index: int) -> int:
        """Guest address of descriptor `index`; it may wrap past 2**64 no further than GuestMemory refuses."""
        return (self.base_high << 32 | self.base_low) + index * DESCRIPTOR_BYTES

    def advance(self, count: int = 1) -> None:
        """Pass `count` descriptors, of which only the first may be the ring's last."""
        head = self.head + count
        self.head = 0 if head >= self.count else head

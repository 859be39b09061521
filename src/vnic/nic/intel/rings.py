"""A ring of 16-byte descriptors in guest memory: its address and the part that the chip owns (SDM §3.2.6, §3.4).

The receive and transmit units use it. The chip owns the descriptors from head up to tail. The guest may write all
four registers at any time, so nothing is cached, and the units check `usable` before each run.
"""

from __future__ import annotations

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
    """

    descriptor_bytes = DESCRIPTOR_BYTES

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.base_low = 0
        self.base_high = 0
        self.length_bytes = 0
        self.head = 0
        self.tail = 0
        self.posted_tail = 0

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

    def advance(self) -> None:
        head = self.head + 1
        self.head = 0 if head >= self.count else head

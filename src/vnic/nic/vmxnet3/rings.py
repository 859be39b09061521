"""Rings of 16-byte descriptors with a generation bit: those that the driver fills, and those that the device completes.

There are no head and tail: a descriptor is the device's if its generation bit equals the ring's, which flips with each
lap. The bit of a completion tells the driver the same. So what a process has completed can be read from the ring by the
process that takes its place (`CompletionRing.completed`), and no record has to be saved for each packet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated

import msgspec

from vnic.nic.vmxnet3 import regs as r
from vnic.pci.dma import Dma
from vnic.record import U64, Record, require

_DESCRIPTOR = struct.Struct("<QII")
_BODY = struct.Struct("<III")
_LAST = struct.Struct("<I")
assert _DESCRIPTOR.size == _BODY.size + _LAST.size == r.DESCRIPTOR_BYTES

Descriptor = tuple[int, int, int]  # the address and the two words


class RingRecord(Record, frozen=True):
    base: U64
    size: Annotated[int, msgspec.Meta(ge=0, le=r.MAX_RX_COMPLETIONS)]
    next: Annotated[int, msgspec.Meta(ge=0, lt=r.MAX_RX_COMPLETIONS)] = 0
    generation: Annotated[int, msgspec.Meta(ge=0, le=1)] = r.GEN_INITIAL

    def check_fields(self) -> None:
        require(self.next < max(self.size, 1), "next", f"is {self.next} of {self.size}")


class Ring:
    """A ring, and the place where the device is. `size` may be 0."""

    def __init__(self, record: RingRecord) -> None:
        self.base, self.size = record.base, record.size
        self.place = record.next, record.generation

    def save(self) -> RingRecord:
        return RingRecord(base=self.base, size=self.size, next=self.next, generation=self.generation)

    @property
    def place(self) -> tuple[int, int]:
        """Where the device is, to return there."""
        return self.next, self.generation

    @place.setter
    def place(self, place: tuple[int, int]) -> None:
        self.next, self.generation = place

    def pass_by(self, index: int) -> int:
        """Go on behind the descriptor `index`, less than a lap away; returns it."""
        if index < self.next:
            self.generation ^= 1
        self.next = index + 1
        if self.next >= self.size:
            self.next = 0
            self.generation ^= 1
        return index

    def read(self, dma: Dma, count: int) -> Iterator[tuple[Descriptor, int]]:
        """Up to `count` descriptors from the next one on, each with the generation that makes it the device's. Raises
        GuestMemoryError."""
        count = min(count, self.size)
        before_end = min(count, self.size - self.next)
        parts = ((self.next, before_end, self.generation), (0, count - before_end, self.generation ^ 1))
        for first, number, generation in parts:
            if number:
                data = dma.read(self.base + first * r.DESCRIPTOR_BYTES, number * r.DESCRIPTOR_BYTES)
                for each in _DESCRIPTOR.iter_unpack(data):
                    yield each, generation


class CompletionRing(Ring):
    """The ring in which the device tells the driver what is done."""

    unsaved = 0
    """Completions since the record was saved for sure."""

    def put(self, dma: Dma, completions: list[list[int]]) -> None:
        """Write the words of completions, the first one last, and of each the generation last: the driver sees all or
        none. Raises GuestMemoryError."""
        self.unsaved += len(completions)
        places = []
        for words in completions:
            generation = self.generation
            places.append((self.base + self.pass_by(self.next) * r.DESCRIPTOR_BYTES, generation, words))
        for where, generation, (*body, last) in reversed(places):
            dma.write(where, _BODY.pack(*body))
            dma.write(where + _BODY.size, _LAST.pack(last | generation << r.COMPLETION_GEN_SHIFT))

    def completed(self, dma: Dma, hidden: int) -> list[int]:
        """After a restart: the first words of the completions that the process before wrote since the record was saved,
        in order; the ring goes on behind them. Of up to `hidden` more, some may have been written before the first one
        of their frame, which makes them visible: they are made invalid. Raises GuestMemoryError."""
        found: list[int] = []
        for at, ((low, _, last), generation) in enumerate(list(self.read(dma, self.size))):
            done = last >> r.COMPLETION_GEN_SHIFT == generation
            if done and at == len(found):
                found.append(low & 0xFFFFFFFF)
            elif at >= len(found) + hidden:
                break
            elif done:
                where = self.base + (self.next + at) % self.size * r.DESCRIPTOR_BYTES + _BODY.size
                dma.write(where, _LAST.pack((generation ^ 1) << r.COMPLETION_GEN_SHIFT))
        for _ in found:
            self.pass_by(self.next)
        return found

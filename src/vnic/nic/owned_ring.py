"""A ring of descriptors in which a bit says whose each is: the chip's, or the driver's.

There are no head and tail registers: the chip takes the descriptor that follows the last one, as soon as the driver has
given it. Descriptors are Realtek's: 16 bytes, the flags in the first dword, the buffer's address in the last two.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

import msgspec

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import BUFFER_COST_BYTES, ROUND_BYTES, Plan, Range, copy
from vnic.nic.unit import NicUnitHost
from vnic.record import U32, U64, Record

COUNT: Final = 64
DESCRIPTOR_BYTES: Final = 16
_LAYOUT: Final = struct.Struct("<IIQ")
_STATUS: Final = struct.Struct("<I")
assert _LAYOUT.size == DESCRIPTOR_BYTES
_FETCHED_AT_ONCE: Final = 256  # the alignment of a ring: no more than that is mapped for sure
_ADDRESS_MASK: Final = (1 << 64) - 1

OWN: Final = 1 << 31
EOR: Final = 1 << 30
FIRST: Final = 1 << 29
LAST: Final = 1 << 28


class Descriptor(NamedTuple):
    where: int
    status: int
    """The first dword: flags and length."""
    vlan: int
    """The second dword."""
    address: int


class OwedRecord(Record, frozen=True):
    """A descriptor that the chip is done with, and that may not show it yet."""

    where: U64
    before: U32
    address: U64
    """The first dword and the buffer, as they were: another value means that the guest has the descriptor back."""
    status: U32
    vlan: U32


class OwnedRingRecord(Record, frozen=True):
    index: Annotated[int, msgspec.Meta(ge=0, lt=COUNT)]
    owed: Annotated[list[OwedRecord], msgspec.Meta(max_length=COUNT)]


class OwnedRing:
    """The chip's place in a ring. `base` gives its address."""

    def __init__(self, device: NicUnitHost, base: Callable[[], int]) -> None:
        self._device = device
        self._base = base
        self._ready = 0
        """Of a VM that does not share its memory: the descriptors from `index` on that were fetched."""
        self._taken = 0
        self.reset()

    def reset(self) -> None:
        self.index = 0
        self._owed: list[OwedRecord] = []
        self._ready = 0

    @property
    def base(self) -> int:
        return self._base() & _ADDRESS_MASK

    def owned(self, ahead: int = 0, after: Descriptor | None = None) -> Descriptor | None:
        """The descriptor so many further on, of which `after` is the one before; None: it is the guest's, or not here
        yet. Raises GuestMemoryError."""
        if self._device.rings.unshared and ahead >= self._ready:
            return None
        index = self.index if after is None else self._following(after)
        found = self._read(self._device.dma.read, index)
        return found if found.status & OWN else None

    def _read(self, read: Callable[[int, int], bytes], index: int) -> Descriptor:
        where = self.base + index * DESCRIPTOR_BYTES
        return Descriptor(where, *_LAYOUT.unpack(read(where, DESCRIPTOR_BYTES)))

    def _following(self, descriptor: Descriptor) -> int:
        index = (descriptor.where - self.base) // DESCRIPTOR_BYTES
        return 0 if descriptor.status & EOR else (index + 1) % COUNT

    def take(self, descriptors: list[tuple[Descriptor, int, int]]) -> None:
        """The chip is done with these, which follow each other; each with its two dwords from now on. Saves the device:
        a next process neither carries them out again nor leaves them as they are."""
        self.index = self._following(descriptors[-1][0])
        self._taken += len(descriptors)
        self._ready = max(self._ready - len(descriptors), 0)
        self._owed = [
            OwedRecord(where=each.where, before=each.status, address=each.address, status=status, vlan=vlan)
            for each, status, vlan in descriptors
        ]
        self._device.keep_record()

    def show(self) -> None:
        """Let the guest see what `take` took. Raises GuestMemoryError."""
        owed, self._owed = self._owed, []
        self._device.touched()
        for each in reversed(owed):  # the first one comes last: the guest waits for that
            self._device.dma.write(each.where + 4, _STATUS.pack(each.vlan))
            self._device.dma.write(each.where, _STATUS.pack(each.status))

    def show_again(self) -> bool:
        """After a restart: show what the process before may not have shown. Returns whether there was any. Raises
        GuestMemoryError."""
        if not self._owed:
            return False
        if not self._device.rings.unshared:
            read = self._device.dma.read
            now = [_LAYOUT.unpack(read(each.where, DESCRIPTOR_BYTES)) for each in self._owed]
            self._owed = [
                each
                for each, (status, _, address) in zip(self._owed, now, strict=True)
                if (status, address) == (each.before, each.address)
            ]
        self.show()
        return True

    # --- A VM that does not share its memory ---

    def forget(self) -> None:
        self._ready = 0

    def plan(self, memory: GuestMemory, buffer_of: Callable[[Descriptor], Range] | None = None) -> Plan:
        """Fetch the descriptors, and the buffers of those that the chip owns: `buffer_of` of each, if it reads them."""
        start, base = self._taken, self.base
        size = COUNT * DESCRIPTOR_BYTES
        yield from copy(memory, [(base + at, _FETCHED_AT_ONCE) for at in range(0, size, _FETCHED_AT_ONCE)])
        buffers: list[Range] = []
        count, room, index = 0, ROUND_BYTES, self.index
        while count < COUNT and room > 0:
            try:
                descriptor = self._read(memory.read, index)
            except GuestMemoryError:
                break
            if not descriptor.status & OWN:
                break
            count += 1
            index = self._following(descriptor)
            if buffer_of is not None:
                buffers.append(buffer_of(descriptor))
                room -= max(buffers[-1][1], BUFFER_COST_BYTES)
        yield from copy(memory, [each for each in buffers if each[1]])
        self._ready = max(count - (self._taken - start), 0)

    # --- State ---

    def save(self) -> OwnedRingRecord:
        return OwnedRingRecord(index=self.index, owed=list(self._owed))

    def restore(self, record: OwnedRingRecord) -> None:
        """`show_again` follows."""
        self.index, self._owed = record.index, list(record.owed)

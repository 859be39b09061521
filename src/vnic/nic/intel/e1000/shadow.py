"""The e1000's units in a VM that does not share its memory: descriptors, and the frames to be sent, are fetched before
a unit works on them, and causes wait for what was written.

`device.E1000` has one `ShadowUnits` while such a VM is plugged in.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

from vnic.memory.guest import GuestMemory
from vnic.memory.shadow import (
    BUFFER_COST_BYTES,
    ROUND_BYTES,
    Plan,
    Range,
    Shadow,
    copy,
)
from vnic.nic.intel.e1000.rings import DESCRIPTOR_BYTES, DescriptorRing
from vnic.nic.intel.e1000.rx import buffer_bytes
from vnic.nic.intel.e1000.tx import MAX_FRAME_BYTES, buffer_of

if TYPE_CHECKING:
    from vnic.nic.intel.e1000.device import E1000

_DESCRIPTOR = struct.Struct("<QII")
assert _DESCRIPTOR.size == DESCRIPTOR_BYTES
_MOST = ROUND_BYTES // BUFFER_COST_BYTES


class ShadowUnits:
    """Moves the units' `tail` behind the guest's, as descriptors come in."""

    def __init__(self, device: E1000, memory: GuestMemory, shadow: Shadow) -> None:
        self._device = device
        self._memory = memory
        self._shadow = shadow

    def restart(self) -> None:
        """The rings are elsewhere, or the shadow copy is a new one: nothing of what was fetched counts."""
        for ring in (self._device.rx.ring, self._device.tx.ring):
            ring.tail = ring.head
        self.fetch(anew=True)

    def fetch(self, *, anew: bool = False) -> None:
        """Have what the guest posted fetched, as far as the units can use it now."""
        device, memory, shadow = self._device, self._memory, self._shadow
        rx, tx = device.rx, device.tx
        if not device.bus_master:
            return
        if anew or rx.ring.tail != rx.ring.posted_tail:
            shadow.fetch(
                "RX",
                lambda: fetch_receive(rx.ring, memory, buffer_bytes(rx.rctl)),
                partial(device.client.flush, 0),
                partial(device.bus_error, "RX"),
                anew=anew,
            )
        if anew or tx.ring.tail != tx.ring.posted_tail:
            shadow.fetch(
                "TX",
                lambda: fetch_transmit(tx.ring, memory),
                tx.kick,
                partial(device.bus_error, "TX"),
                anew=anew,
            )

    def interrupt(self, causes: int) -> None:
        """Set them when all that was written is there: the guest may read ICR at any time."""
        self._shadow.write((), partial(self._device.interrupts.set, causes), self._device.dma_refused)
        self.fetch()  # what did not fit before


def fetch_receive(ring: DescriptorRing, memory: GuestMemory, buffer_bytes: int) -> Plan:
    """Receive descriptors, as many as make ROUND_BYTES of room."""
    if not _is_sound(ring):
        return
    room = ROUND_BYTES // max(buffer_bytes, BUFFER_COST_BYTES) - ring.available
    count = min((ring.posted_tail - ring.tail) % ring.count, room)
    if count > 0:
        yield from _descriptors(ring, memory, count)
        ring.tail = (ring.tail + count) % ring.count


def fetch_transmit(ring: DescriptorRing, memory: GuestMemory) -> Plan:
    """Transmit descriptors with their buffers, when those before are done."""
    if not _is_sound(ring) or ring.available:
        return
    count = min((ring.posted_tail - ring.tail) % ring.count, _MOST)
    if not count:
        return
    yield from _descriptors(ring, memory, count)
    wanted: list[Range] = []
    room = ROUND_BYTES
    taken = 0
    for taken in range(1, count + 1):
        where = ring.address((ring.tail + taken - 1) % ring.count)
        address, length = buffer_of(*_DESCRIPTOR.unpack(memory.read(where, DESCRIPTOR_BYTES)))
        room -= max(length, BUFFER_COST_BYTES)
        if 0 < length <= MAX_FRAME_BYTES:  # a longer one is not read
            wanted.append((address, length))
        if room <= 0:
            break
    yield from copy(memory, wanted)
    ring.tail = (ring.tail + taken) % ring.count


def _is_sound(ring: DescriptorRing) -> bool:
    """Whether the units can work on the ring; if not, let them say so."""
    if ring.usable and ring.posted_tail < ring.count:
        return True
    ring.tail = ring.posted_tail
    return False


def _descriptors(
    ring: DescriptorRing, memory: GuestMemory, count: int
) -> Generator[list[Range], list[bytes]]:
    first = ring.tail
    before_end = min(count, ring.count - first)
    ranges = [(ring.address(first), before_end * DESCRIPTOR_BYTES)]
    if before_end < count:
        ranges.append((ring.address(0), (count - before_end) * DESCRIPTOR_BYTES))
    yield from copy(memory, ranges)

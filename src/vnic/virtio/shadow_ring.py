"""One split ring in memory that the guest does not share: plans the fetches, and finds the device's writes.

`pci.shadow_rings` drives one for each queue. The device model uses the ring's shadow copy like any ring. ShadowRing
makes new chains visible only after their contents are fetched, and finds in the used ring what the device returned.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import (
    BUFFER_COST_BYTES,
    ROUND_BYTES,
    Part,
    Plan,
    Range,
    copy,
    put,
)
from vnic.record import U64, Record
from vnic.virtio.constants import (
    DESC_BYTES,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
)
from vnic.virtio.queue import MAX_CHAIN, SplitQueue


class UnsentRecord(Record, frozen=True):
    """The writes to make to the guest's memory."""

    address: U64
    data: bytes


class ShadowRingRecord(Record, frozen=True):
    """The state of a ring's shadow copy; the copy itself is not saved."""

    unsent: list[UnsentRecord]


CHAIN_BYTES = 1 << 17
"""The most bytes that a device model reads from a chain or writes to one (virtio-net: a frame or a command)."""

_Descriptor = tuple[int, int, int]
"""Address, length, flags."""


class ShadowRing:
    """The shadow copy of `queue`'s ring.

    The ring's flags are hints (virtio 1.2 §2.7.7, §2.7.10) and would be stale. The driver's stay 0 in the shadow copy,
    so that the device always interrupts; the device's are not sent, so that the driver always kicks.
    """

    def __init__(self, queue: SplitQueue, memory: GuestMemory) -> None:
        self._queue = queue
        self._memory = memory
        self._written = 0  # the used index up to which `written` was asked
        self._unsent: list[Part] = []  # of a ring that was restored
        self._costs: deque[int] = deque()  # of the chains that are shown and not taken
        self._lost = False
        """The guest's used ring is ahead of the queue."""
        self.held_back = False
        """There are more chains; they become visible when the device has popped the earlier ones."""

    def restart(self) -> None:
        """The shadow copy is empty or stale: make only the chains popped so far visible."""
        queue = self._queue
        queue.invalidate()
        self._written, self._unsent = queue.used_idx, []
        self._costs.clear()
        self.held_back = False
        try:
            self._show(queue.last_avail)
            put(self._memory, queue.used, struct.pack("<HH", 0, queue.used_idx))
        except GuestMemoryError:
            pass  # unmapped: the queue reports it, or waits until it is mapped again

    def take_up(self) -> None:
        """As `restart`, where the process before was killed: the next fetch takes both cursors from the used ring."""
        self.restart()
        self._lost = True

    def save(self) -> ShadowRingRecord:
        """The shadow copy will be lost: keep the writes that are not sent yet; all else is fetched again."""
        return ShadowRingRecord(
            unsent=[UnsentRecord(address=address, data=data) for address, data in self._gained()]
        )

    def restore(self, record: ShadowRingRecord) -> None:
        """Continue with an empty shadow copy after the queue is restored; the caller kicks the ring."""
        self.restart()
        self._unsent = [(part.address, part.data) for part in record.unsent]

    def _show(self, avail_idx: int) -> None:
        put(self._memory, self._queue.avail, struct.pack("<HH", 0, avail_idx))

    # -- fetches ------------------------------------------------------------------------------------------------

    def fetch(self) -> Plan:
        """Fetch the available ring and the descriptors, then indirect tables, then the readable buffers of new
        chains."""
        queue, memory, size = self._queue, self._memory, self._queue.size
        if self._lost:
            (used,) = yield [(queue.used, 4)]
            if not used:
                return
            self._lost = False
            put(memory, queue.used, used)
            queue.resume(None)
            self.restart()
        # The table after the index: what the index shows was written before it.
        avail, table = yield [(queue.avail, 4 + 2 * size), (queue.desc, DESC_BYTES * size)]
        if not avail or not table:
            return
        shown = int.from_bytes(memory.read(queue.avail + 2, 2), "little")
        index = int.from_bytes(avail[2:4], "little")
        while len(self._costs) > (shown - queue.last_avail) & 0xFFFF:
            self._costs.popleft()
        new = (index - shown) & 0xFFFF
        if new > size or (index - queue.last_avail) & 0xFFFF > size:
            self._show(index)  # for the queue to find out
            return
        put(memory, queue.desc, table)
        put(memory, queue.avail + 4, avail[4:])
        room = ROUND_BYTES - sum(self._costs)
        entries = struct.unpack_from(f"<{size}H", avail, 4)
        heads = [entries[(shown + at) % size] for at in range(new)]
        yield from copy(memory, self._tables(table, heads, room))
        wanted: list[Range] = []
        taken = 0
        for head in heads:
            cost, ranges = self._needs(table, head)
            if cost > room and self._costs:
                break
            self._costs.append(cost)
            room -= cost
            wanted += ranges
            taken += 1
        yield from copy(memory, wanted)
        self.held_back = taken < new
        self._show((shown + taken) & 0xFFFF)

    def _tables(self, table: bytes, heads: list[int], room: int) -> list[Range]:
        """The indirect tables of the first chains, as many as `room` might take."""
        found: list[Range] = []
        for head in heads:
            for address, length, flags in _follow(table, head):
                room -= BUFFER_COST_BYTES
                if flags & DESC_INDIRECT and length <= DESC_BYTES * MAX_CHAIN:
                    found.append((address, length))
                    room -= length
            if room < 0:
                break
        return found

    def _needs(self, table: bytes, head: int) -> tuple[int, list[Range]]:
        """What a chain counts against ROUND_BYTES, and its ranges to fetch: none if the chain is too long for the
        device model."""
        buffers = list(self._chain(table, head))
        readable = [(address, length) for address, length, flags in buffers if not flags & DESC_WRITE]
        size = sum(length for _, length in readable)
        room = sum(length for _, length, flags in buffers if flags & DESC_WRITE)
        if size > CHAIN_BYTES:
            readable, size = [], 0
        cost = max(size + min(room, CHAIN_BYTES), BUFFER_COST_BYTES * len(buffers))
        return cost, [(address, length) for address, length in readable if length]

    def _chain(self, table: bytes, head: int) -> Iterator[_Descriptor]:
        """The valid buffers of a chain; the queue itself reports errors in the chain."""
        for address, length, flags in _follow(table, head):
            if not flags & DESC_INDIRECT:
                yield address, length, flags
            elif length <= DESC_BYTES * MAX_CHAIN:
                try:
                    indirect = self._memory.read(address, length)
                except GuestMemoryError:
                    return
                yield from _follow(indirect, 0)

    # -- writes -------------------------------------------------------------------------------------------------

    def written(self) -> list[Part]:
        """The writes for the used elements added since the last call, in the order in which the driver may see them:
        the chains' contents, the elements, the index."""
        parts = self._gained()
        self._written, self._unsent = self._queue.used_idx, []
        return parts

    def _gained(self) -> list[Part]:
        queue, memory = self._queue, self._memory
        count = min((queue.used_idx - self._written) & 0xFFFF, queue.size)
        first = queue.used_idx - count
        if not count:
            return self._unsent
        parts: list[Part] = []
        elements: list[Part] = []
        try:
            used = memory.read(queue.used, 4 + 8 * queue.size)
            table = memory.read(queue.desc, DESC_BYTES * queue.size)
            for number in range(first, first + count):
                at = 4 + 8 * (number % queue.size)
                head, length = struct.unpack_from("<II", used, at)
                parts += self._filled(table, head, length)
                elements.append((queue.used + at, used[at : at + 8]))
        except GuestMemoryError:
            return []  # unmapped meanwhile
        return [*self._unsent, *parts, *_joined(elements), (queue.used + 2, used[2:4])]

    def _filled(self, table: bytes, head: int, length: int) -> Iterator[Part]:
        if not length:
            return
        for address, size, flags in self._chain(table, head):
            if flags & DESC_WRITE and length:
                size = min(size, length)
                length -= size
                yield address, self._memory.read(address, size)


def _follow(table: bytes, index: int) -> Iterator[_Descriptor]:
    """The descriptors from `index` on, up to an invalid one or the limit."""
    entries = len(table) // DESC_BYTES
    for _ in range(min(entries, MAX_CHAIN)):
        if index >= entries:
            return
        address, length, flags, index = struct.unpack_from("<QIHH", table, DESC_BYTES * index)
        yield address, length, flags
        if not flags & DESC_NEXT or flags & DESC_INDIRECT:
            return


def _joined(parts: list[Part]) -> list[Part]:
    """Merge adjacent parts."""
    joined: list[Part] = []
    for address, data in parts:
        if joined and joined[-1][0] + len(joined[-1][1]) == address:
            address, data = joined[-1][0], joined.pop()[1] + data
        joined.append((address, data))
    return joined

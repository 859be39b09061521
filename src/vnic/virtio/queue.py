"""The device's side of one split virtqueue (virtio 1.2 §2.7): pop a chain, read or fill it, push it back.

A data plane or a control queue drives it; kicks and interrupts are the transport's. All values that the driver wrote
are checked here, once: a violation raises QueueError, and the caller marks the queue as broken (`fail`).
"""

from __future__ import annotations

from vnic.lifecycle import moved
from vnic.memory.guest import NO_MEMORY, GuestMemory, GuestMemoryError, Span
from vnic.memory.mapping import GuestMapping
from vnic.virtio.chain import Chain
from vnic.virtio.constants import (
    AVAIL_NO_INTERRUPT,
    DESC_BYTES,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    USED_NO_NOTIFY,
)
from vnic.virtio.fence import FENCED, fence_lock
from vnic.virtio.queue_record import QueueRecord, are_in, areas, faults, is_shared
from vnic.virtio.queue_state import MOVES, QueueState

MAX_CHAIN = 1024
"""The most descriptors in one chain, indirect table included (QEMU's VIRTQUEUE_MAX_SIZE)."""


class QueueError(Exception):
    """The driver violated the specification; the ring is unusable until the driver resets it."""


_NO_VIEW = memoryview(b"")


class SplitQueue:
    """One ring. A transport sets `size` and the addresses, and then starts it with `setup`.

    `desc`, `avail`, `used` are guest addresses. `last_avail` counts the chains popped, `used_idx` those pushed, both
    modulo 2**16. Each chain is popped and pushed within one turn of the loop, in order: none is in flight when the
    ring stops, so `last_avail` equals the ring's used.idx, and another back-end can continue from there.
    """

    def __init__(self, index: int, max_size: int = 256) -> None:
        self.index = index
        self.max_size = max_size
        self.size = max_size
        self.desc = self.avail = self.used = 0
        self.used_idx = 0
        self._last_avail = 0
        self.state = QueueState.STOPPED
        self.enabled = True
        """False: no side effects (vhost-user SET_VRING_ENABLE 0): TX packets are discarded, RX gets none."""
        self.indirect = False
        """VIRTIO_F_INDIRECT_DESC was negotiated."""
        self.event_idx = False
        """VIRTIO_F_EVENT_IDX was negotiated: indices instead of flags ask for notifications. Only if FENCED."""
        self.kicks_suppressed = False
        self._told_idx: int | None = None
        """used.idx when the driver's used_event was last looked at; None: the next look interrupts."""
        self._memory = NO_MEMORY
        self._resuming = self._behind = False  # behind: it was restored, and its cursors may be old
        self._base: int | None = None
        self._heads: list[int] = []  # read ahead from the available ring
        self._at = 0  # the number of them popped since
        self._unmap()

    def __repr__(self) -> str:
        return f"<SplitQueue {self.index} {self.state.value} size={self.size}>"

    @property
    def ready(self) -> bool:
        """Whether the ring is set up and not broken."""
        return self.state is QueueState.RUNNING

    @property
    def last_avail(self) -> int:
        """The avail index of the next chain to pop: the base from which another back-end continues."""
        return (self._last_avail + self._at) & 0xFFFF

    @property
    def avail_idx(self) -> int:
        """The driver's avail index, modulo 2**16; -1 while this process may not access the ring."""
        return self._avail16[1] if self._mapped else -1

    # -- lifecycle ----------------------------------------------------------------------------------------------

    def setup(self, memory: GuestMemory, base: int | None = None) -> None:
        """Check size and addresses, and start. Raises QueueError, and stays stopped.

        `base` is the avail index to continue from; None means used.idx, which is correct if all popped chains were
        pushed (after a back-end's crash, an earlier base may be too low).
        """
        self.stop()
        for _, why in faults(self.max_size, self.size, self.desc, self.avail, self.used):
            raise QueueError(why)
        self._memory = memory
        try:
            self._map(memory)
        except GuestMemoryError as error:
            raise QueueError(str(error)) from None
        self._begin(base)
        self._become(QueueState.RUNNING)

    def resume(self, base: int | None) -> None:
        """Continue with a running ring that was handed over; `base` as for `setup`. If its memory is unmapped at
        present, the ring starts when it is mapped again."""
        self._unmap()
        self._base = base
        self._resuming, self._behind = True, False
        if base is not None:
            self._last_avail = base & 0xFFFF
        self._map_again()

    def in_memory(self) -> bool:
        """Whether the memory of a running ring is mapped now: a client may unmap it, and map it again."""
        return are_in(self._memory, areas(self.size, self.desc, self.avail, self.used))

    def _begin(self, base: int | None) -> None:
        self._resuming = self._behind = False
        self.used_idx = self._used16[1]
        self._last_avail = self.used_idx if base is None else base & 0xFFFF
        self._enable_kicks()
        self.kicks_suppressed = False
        self._told_idx = None

    def _enable_kicks(self) -> None:
        """Have the driver kick for the next chain; check the ring once more after it."""
        if self.event_idx:
            self._avail_event[0] = self.last_avail
        self._used16[0] = 0

    def stop(self) -> int:
        """Stop the ring; returns the avail index from which it can be resumed."""
        if self._mapped or (self._behind and self._map_again()):
            self._enable_kicks()
        self._become(QueueState.STOPPED)
        self._unmap()
        self._memory = NO_MEMORY
        self._resuming = self._behind = False
        return self.last_avail

    def hand_over(self) -> None:
        """Another back-end processes the ring from `last_avail` on: do not access it until `resume` or `setup`."""
        if self._mapped or ((self._resuming or self._behind) and self._map_again()):
            self._enable_kicks()
        self._unmap()

    def reset(self) -> None:
        """Return to the state after a device reset: stopped, the largest size, no addresses."""
        self.stop()
        self.size = self.max_size
        self.desc = self.avail = self.used = 0
        self.used_idx = self._last_avail = 0
        self.enabled = True

    def fail(self) -> None:
        """Mark the ring as broken: pop and push do nothing until it is set up again."""
        self.stop()
        self._become(QueueState.BROKEN)

    def _become(self, state: QueueState) -> None:
        """`state` is a plain attribute, because it is read for each packet."""
        self.state = moved(self, MOVES, self.state, state)

    # -- state apart from memory --------------------------------------------------------------------------------

    def save(self) -> QueueRecord:
        """Call it between turns, when no chain is in flight."""
        return QueueRecord(
            max_size=self.max_size,
            size=self.size,
            desc=self.desc,
            avail=self.avail,
            used=self.used,
            last_avail=self.last_avail,
            used_idx=self.used_idx,
            state=self.state.value,
            mapped=self._mapped,
            enabled=self.enabled,
            indirect=self.indirect,
            event_idx=self.event_idx,
            told_idx=self._told_idx,
            kicks_suppressed=self.kicks_suppressed,
            resuming=self._resuming,
            base=self._base if self._resuming else None,
        )

    def restore(self, record: QueueRecord, memory: GuestMemory) -> None:
        """Take the place of the queue that was saved, in the same memory. Raises RecordError. A ring goes on at its
        used.idx, as its record may be old; one in a shadow copy of memory at its record's."""
        record.check(self.max_size, memory)
        self.size, self.desc, self.avail, self.used = record.size, record.desc, record.avail, record.used
        self._last_avail, self.used_idx = record.last_avail, record.used_idx
        self.state = QueueState(record.state)
        self.enabled, self.indirect, self.event_idx = record.enabled, record.indirect, record.event_idx
        self._told_idx = record.told_idx
        self.kicks_suppressed = record.kicks_suppressed
        self._resuming, self._base = record.resuming, record.base
        if self.ready:
            self._memory = memory
            self._behind = is_shared(memory, self.used)
            if record.mapped:
                self._map(memory)
                self._catch_up()

    def _catch_up(self) -> None:
        """The ring has gone on since it was saved."""
        if self._behind:
            self._behind = False
            self.used_idx = self._last_avail = self._used16[1]

    def publish_saved(self, used_idx: int) -> None:
        """After `restore`: chains before `used_idx` were pushed and saved; they are published now, if they were not."""
        if self._mapped and 0 < (used_idx - self.used_idx) & 0xFFFF <= self.size:
            self.used_idx = self._last_avail = self._used16[1] = used_idx

    def revive(self) -> None:
        """After `restore`: the driver kicks for the next chain, and the next look at its used_event interrupts it."""
        if self._mapped:
            self.kicks_suppressed = False
            self._enable_kicks()
        self._told_idx = None

    def invalidate(self) -> None:
        """The memory map changed: release the views; the next use makes new ones."""
        self._unmap()

    def _unmap(self) -> None:
        self._last_avail = self.last_avail
        self._heads, self._at = [], 0
        self._mapped = False
        self._desc64 = self._avail16 = self._used16 = self._used64 = self._avail_event = _NO_VIEW
        # The region of the last buffer, as plain ints: its guest range, and the difference between a guest address
        # and an offset of its mapping. An empty range at first.
        self._lo = self._hi = self._delta = 0
        self._mapping: GuestMapping | None = None

    def _map(self, memory: GuestMemory) -> None:
        size = self.size
        parts = areas(size, self.desc, self.avail, self.used)
        desc, avail, used = (memory.slice(addr, length, write=write) for addr, length, write in parts)
        self._desc64 = desc.cast("Q")  # per descriptor: addr; len | flags << 32 | next << 48
        self._avail16 = avail.cast("H")  # flags, idx, ring[size], used_event
        self._used16 = used[:4].cast("H")  # flags, idx
        self._used64 = used[4 : 4 + 8 * size].cast("Q")  # per element: id | len << 32
        self._avail_event = used[4 + 8 * size :].cast("H")
        self._mapped = True

    def _map_again(self) -> bool:
        """False: the ring does not run, or its memory is unmapped."""
        if self.state is not QueueState.RUNNING:
            return False
        try:
            self._map(self._memory)
        except GuestMemoryError:
            return False
        if self._resuming:
            self._begin(None if self._behind else self._base)
        self._catch_up()
        return True

    # -- taking chains ------------------------------------------------------------------------------------------

    def _fetch(self) -> bool:
        """Read the heads that the driver made available since; False: none, or the ring may not be accessed."""
        if not self._mapped and not self._map_again():
            return False  # between an unmap and a map of the client; the device is kicked after each change
        avail, size, last = self._avail16, self.size, self.last_avail
        count = (avail[1] - last) & 0xFFFF
        if count == 0:
            if not self.event_idx or self.kicks_suppressed:
                return False
            self._avail_event[0] = last
            with fence_lock:  # the store of avail_event before the load of avail.idx
                pass
            count = (avail[1] - last) & 0xFFFF
            if count == 0:
                return False
        if count > size:
            raise QueueError(f"avail.idx jumped {count} ahead, the queue has {size} entries")
        first = 2 + (last & (size - 1))
        heads = avail[first : min(first + count, 2 + size)].tolist()
        if len(heads) < count:
            heads += avail[2 : 2 + count - len(heads)].tolist()
        self._last_avail, self._heads, self._at = last, heads, 0
        return True

    def pending(self) -> int:
        """The number of available chains. Raises QueueError."""
        return len(self._heads) - self._at if self._at < len(self._heads) or self._fetch() else 0

    def pop_span(self, kind: int) -> tuple[int, GuestMapping, int, int] | None:
        """Pop the next chain if it is the common case: a single descriptor, in the same region as the last one.

        `kind` is 0 for a readable buffer, DESC_WRITE for a writable one. Returns (head, mapping, start, stop);
        None: use `pop`, which also reports what is invalid. May raise QueueError.
        """
        at = self._at
        if at >= len(self._heads):
            if not self._fetch():
                return None
            at = 0
        head = self._heads[at]
        if head >= self.size:
            return None
        word = self._desc64[head * 2 + 1]  # read once: the driver may change it meanwhile
        if word >> 32 & 7 != kind:
            return None
        addr = self._desc64[head * 2]
        end = addr + (word & 0xFFFFFFFF)
        if addr < self._lo or end > self._hi or addr == end or self._mapping is None:
            return None
        self._at = at + 1
        return head, self._mapping, addr + self._delta, end + self._delta

    def pop(self) -> Chain | None:
        """Pop the next chain; None if there is none. Raises QueueError."""
        if self._at >= len(self._heads) and not self._fetch():
            return None
        chain = self._walk(self._heads[self._at])
        self._at += 1
        return chain

    def rewind(self, count: int) -> None:
        """Put back the last `count` chains popped and not pushed; only right after their pops."""
        last = self.last_avail - count
        if count > self._at:
            self._heads, self._at, self._last_avail = [], 0, last & 0xFFFF  # they will be read again
        else:
            self._at -= count

    def _walk(self, head: int) -> Chain:
        """Follow a chain of any shape (§2.7.5.3.2: direct descriptors, then at most one indirect table)."""
        table, entries, in_table = self._desc64, self.size, False
        readable: list[Span] = []
        writable: list[Span] = []
        readable_bytes = writable_bytes = seen = 0
        index = head
        while True:
            if index >= entries:
                raise QueueError(f"descriptor {index} is outside of its table of {entries}")
            addr, word = table[index * 2], table[index * 2 + 1]
            length, flags = word & 0xFFFFFFFF, word >> 32 & 0xFFFF
            if flags & DESC_INDIRECT:
                if not self.indirect or in_table or flags & DESC_NEXT:
                    raise QueueError("an indirect descriptor where none may be")
                table, entries = self._indirect_table(addr, length)
                in_table, index = True, 0
                continue
            if not length:
                raise QueueError("a buffer of zero bytes")
            seen += 1
            if seen > MAX_CHAIN or (not in_table and seen > entries):
                raise QueueError("a descriptor chain that loops or is too long")
            if flags & DESC_WRITE:
                writable += self._spans(addr, length, True)
                writable_bytes += length
            elif writable:
                raise QueueError("a readable buffer behind a writable one")
            else:
                readable += self._spans(addr, length, False)
                readable_bytes += length
            if len(readable) + len(writable) > 2 * MAX_CHAIN:
                raise QueueError("a descriptor chain over too many memory regions")
            if not flags & DESC_NEXT:
                return Chain(head, readable, readable_bytes, writable, writable_bytes)
            index = word >> 48

    def _indirect_table(self, addr: int, length: int) -> tuple[memoryview, int]:
        """A copy of the table, so that the driver cannot change it during the walk."""
        if not length or length % DESC_BYTES or length > DESC_BYTES * MAX_CHAIN:
            raise QueueError(f"an indirect table of {length} bytes")
        try:
            table = self._memory.read(addr, length)
        except GuestMemoryError as error:
            raise QueueError(str(error)) from None
        return memoryview(table).cast("Q"), length // DESC_BYTES

    def _spans(self, addr: int, length: int, write: bool) -> list[Span]:
        memory = self._memory
        if self._lo <= addr and addr + length <= self._hi and self._mapping is not None:
            return [(self._mapping, addr + self._delta, addr + self._delta + length)]
        try:
            spans = memory.spans(addr, length, write=write)
        except GuestMemoryError as error:
            raise QueueError(str(error)) from None
        region = memory.find(addr)
        if region is not None and region.writable:
            self._lo, self._hi, self._mapping = region.guest_addr, region.guest_end, region.mapping
            self._delta = region.mapping_start - region.guest_addr
        return spans

    # -- returning chains ---------------------------------------------------------------------------------------

    def add_used(self, head: int, written: int) -> None:
        """Push a chain with `written` bytes in its writable part; the driver sees it after `publish`."""
        if self._mapped:
            self._used64[self.used_idx & (self.size - 1)] = head | written << 32
        self.used_idx = (self.used_idx + 1) & 0xFFFF

    def publish(self) -> None:
        """Make the pushed chains visible to the driver. x86-64 keeps the stores in order."""
        if self._mapped:
            self._used16[1] = self.used_idx

    def push(self, head: int, written: int) -> None:
        """Push one chain and publish it."""
        if self._mapped:
            used = self.used_idx
            self._used64[used & (self.size - 1)] = head | written << 32
            self.used_idx = self._used16[1] = (used + 1) & 0xFFFF

    def push_unwritten(self, heads: list[int]) -> None:
        """Push these chains, none of them written to, and publish them."""
        if self._mapped:
            used64, mask, used = self._used64, self.size - 1, self.used_idx
            for head in heads:
                used64[used & mask] = head
                used += 1
            self.used_idx = self._used16[1] = used & 0xFFFF

    def should_interrupt(self) -> bool:
        """Whether the driver wants an interrupt for the published chains (§2.7.7.2); call it after `publish`. Also True
        if the ring is no longer accessible, because the memory map changed or a back-end took it."""
        if not FENCED or not self._mapped:
            return True
        with fence_lock:  # the store of used.idx before the load of avail.flags or used_event
            pass
        if not self.event_idx:
            return not self._avail16[0] & AVAIL_NO_INTERRUPT
        told, self._told_idx = self._told_idx, self.used_idx
        # vring_need_event of linux/virtio_ring.h: used_event is among the elements pushed since.
        passed = (self.used_idx - self._avail16[2 + self.size] - 1) & 0xFFFF
        return told is None or passed < (self.used_idx - told) & 0xFFFF

    def suppress_kicks(self, suppress: bool) -> None:
        """Disable or enable the driver's kicks (§2.7.10). After False, check the ring once more: chains made available
        before came without a kick."""
        if FENCED and self._mapped:
            self.kicks_suppressed = suppress
            if not suppress:
                self._enable_kicks()
            elif not self.event_idx:  # else avail_event lies behind, and is not crossed
                self._used16[0] = USED_NO_NOTIFY
            with fence_lock:  # the store of used.flags or avail_event before the load of avail.idx
                pass

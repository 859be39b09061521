"""A device's access to guest memory: reads and writes, and fetches for its descriptor rings.

A model reads and writes through `Dma`, and adds its rings to `PciDevice.rings`. If a VM does not share its memory,
the descriptors and the buffers to read are fetched here before the model processes them, and its interrupts wait here
until its writes are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import NamedTuple, Protocol

from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import BUFFER_COST_BYTES, ROUND_BYTES, Plan, Range, Shadow, copy

_MOST = ROUND_BYTES // BUFFER_COST_BYTES


class Dma(Protocol):
    """Guest memory as a device accesses it. Addresses are the guest's, lengths are bytes.

    Every call raises GuestMemoryError for a range that is not completely mapped and shared, and then does nothing.
    """

    def read(self, addr: int, length: int, /) -> bytes: ...

    def write(self, addr: int, data: bytes | memoryview, /) -> None: ...


class NoDma:
    """Refuses every access: no VM is attached, or bus mastering is disabled."""

    def read(self, addr: int, length: int, /) -> bytes:
        raise GuestMemoryError("the device is no bus master")

    def write(self, addr: int, data: bytes | memoryview, /) -> None:
        raise GuestMemoryError("the device is no bus master")


class Ring(Protocol):
    """A ring of descriptors that the guest posts: the device owns those from `head` up to `tail`."""

    @property
    def descriptor_bytes(self) -> int: ...

    @property
    def count(self) -> int: ...

    head: int
    tail: int
    """Where the device stops: `posted_tail`, or behind it while descriptors are still being fetched."""
    posted_tail: int
    """What the guest wrote last."""

    @property
    def usable(self) -> bool:
        """Whether head and tail are inside the ring."""

    @property
    def available(self) -> int:
        """The number of descriptors that the device owns; only for a `usable` ring."""

    def address(self, index: int) -> int: ...


class _User(NamedTuple):
    ring: Ring
    plan: Callable[[GuestMemory], Plan]
    work: Callable[[], None]
    failed: Callable[[GuestMemoryError], None]


class _Reads(NamedTuple):
    plan: Callable[[GuestMemory], Plan]
    work: Callable[[], None]
    failed: Callable[[GuestMemoryError], None]
    forget: Callable[[], None]


class _Unshared(NamedTuple):
    memory: GuestMemory
    shadow: Shadow


class RingFeed:
    """The rings of one device. The device reports the guest's changes; `work` is called when a fetch is complete.

    `bus_master` returns whether the device may access memory now.
    """

    def __init__(self, bus_master: Callable[[], bool], refused: Callable[[GuestMemoryError], None]) -> None:
        self._bus_master = bus_master
        self._refused = refused
        self._users: dict[str, _User] = {}
        self._reads: dict[str, _Reads] = {}
        self._unshared: _Unshared | None = None
        """Set while the attached VM does not share its memory."""

    def add_receive(
        self,
        name: str,
        ring: Ring,
        buffer_bytes: Callable[[], int],
        work: Callable[[], None],
        failed: Callable[[GuestMemoryError], None],
    ) -> None:
        """Add a ring whose buffers, of `buffer_bytes` each, the device only writes."""
        self._users[name] = _User(
            ring, lambda memory: receive_plan(ring, memory, buffer_bytes()), work, failed
        )

    def add_transmit(
        self,
        name: str,
        ring: Ring,
        buffer_of: Callable[[bytes], Range],
        longest: int,
        work: Callable[[], None],
        failed: Callable[[GuestMemoryError], None],
    ) -> None:
        """Add a ring whose buffers the device reads: `buffer_of` returns a descriptor's buffer, with length 0 for none.
        A buffer of more than `longest` bytes is never read."""
        self._users[name] = _User(
            ring, lambda memory: transmit_plan(ring, memory, buffer_of, longest), work, failed
        )

    def add_reads(
        self,
        name: str,
        plan: Callable[[GuestMemory], Plan],
        work: Callable[[], None],
        failed: Callable[[GuestMemoryError], None],
        forget: Callable[[], None],
    ) -> None:
        """Add what has no tail that the guest moves, such as a ring whose descriptors say who owns them: the device
        asks for it by `fetch`. `forget` is called when what was fetched is invalid."""
        self._reads[name] = _Reads(plan, work, failed, forget)

    # --- Called by the device ---

    @property
    def unshared(self) -> bool:
        """The VM does not share its memory: only what was fetched may be read."""
        return self._unshared is not None

    def fetch(self, name: str) -> None:
        """Fetch what `add_reads` named, of a VM that does not share its memory; `work` is called then."""
        if self._unshared is not None and self._bus_master():
            memory, shadow = self._unshared
            reads = self._reads[name]
            shadow.fetch(name, partial(reads.plan, memory), reads.work, reads.failed)

    def posted(self, ring: Ring, tail: int) -> None:
        """The guest moved the tail. If it shares its memory, the device may process the ring at once."""
        ring.posted_tail = tail
        if self._unshared is None:
            ring.tail = tail
        else:
            self._fetch(self._unshared)

    def restart(self) -> None:
        """A ring moved, or memory was mapped: earlier fetches are invalid."""
        if self._unshared is None:
            return
        for user in self._users.values():
            user.ring.tail = user.ring.head
        self._fetch(self._unshared, anew=True)
        self._forget()
        if self._bus_master():
            memory, shadow = self._unshared
            for name, each in self._reads.items():
                shadow.fetch(name, partial(each.plan, memory), each.work, each.failed, anew=True)

    def after_writes(self, act: Callable[[int], None], causes: int) -> None:
        """Call `act(causes)` when all writes are complete, since the guest may check at any time."""
        if self._unshared is None:
            act(causes)
            return
        self._unshared.shadow.write((), partial(act, causes), self._refused)
        self._fetch(self._unshared)  # what did not fit before

    # --- Called by PciDevice ---

    def use_shadow(self, memory: GuestMemory, shadow: Shadow) -> None:
        """The VM does not share its memory."""
        self._unshared = _Unshared(memory, shadow)
        self._forget()

    def drop(self) -> None:
        """The device is reset: nothing of what is being fetched or written counts any more."""
        if self._unshared is not None and (self._users or self._reads):
            self._unshared.shadow.drop()
        self._forget()

    def unplug(self) -> None:
        self._unshared = None

    def _forget(self) -> None:
        for each in self._reads.values():
            each.forget()

    def _fetch(self, unshared: _Unshared, *, anew: bool = False) -> None:
        """Fetch the posted descriptors that the device can use now."""
        memory, shadow = unshared
        if not self._bus_master():
            return
        for name, user in self._users.items():
            if anew or user.ring.tail != user.ring.posted_tail:
                shadow.fetch(name, partial(user.plan, memory), user.work, user.failed, anew=anew)


def receive_plan(ring: Ring, memory: GuestMemory, buffer_bytes: int) -> Plan:
    """Receive descriptors, as many as make ROUND_BYTES of room."""
    if not _is_sound(ring):
        return
    room = ROUND_BYTES // max(buffer_bytes, BUFFER_COST_BYTES) - ring.available
    count = min((ring.posted_tail - ring.tail) % ring.count, room)
    if count > 0:
        yield from _descriptors(ring, memory, count)
        ring.tail = (ring.tail + count) % ring.count


def transmit_plan(ring: Ring, memory: GuestMemory, buffer_of: Callable[[bytes], Range], longest: int) -> Plan:
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
        address, length = buffer_of(memory.read(where, ring.descriptor_bytes))
        room -= max(length, BUFFER_COST_BYTES)
        if 0 < length <= longest:
            wanted.append((address, length))
        if room <= 0:
            break
    yield from copy(memory, wanted)
    ring.tail = (ring.tail + taken) % ring.count


def _is_sound(ring: Ring) -> bool:
    """Whether the device can work on the ring; if not, let it say so."""
    if ring.usable and ring.posted_tail < ring.count:
        return True
    ring.tail = ring.posted_tail
    return False


def _descriptors(ring: Ring, memory: GuestMemory, count: int) -> Generator[list[Range], list[bytes]]:
    first, size = ring.tail, ring.descriptor_bytes
    before_end = min(count, ring.count - first)
    ranges = [(ring.address(first), before_end * size)]
    if before_end < count:
        ranges.append((ring.address(0), (count - before_end) * size))
    yield from copy(memory, ranges)

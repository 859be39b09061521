"""A ring in memory that is not shared: what its plans ask for, whatever a driver wrote, and what goes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.lab.played.driver import DriverRing
from vnic.lab.played.guest_memory import GUEST_ADDR, FakeGuestMemory
from vnic.memory.guest import GuestMemory, GuestMemoryError
from vnic.memory.shadow import ROUND_BYTES, ShadowRegion, put
from vnic.virtio.queue import MAX_CHAIN, QueueError, SplitQueue
from vnic.virtio.shadow_ring import CHAIN_BYTES, ShadowRing

SIZE = 1 << 20


class Rig:
    """A driver's ring in its own memory, and the device's queue on the shadow copy."""

    def __init__(self, entries: int = 16) -> None:
        self.ram = FakeGuestMemory(SIZE)
        self.driver = DriverRing(self.ram, size=entries)
        self.memory = GuestMemory()
        self.memory.add(ShadowRegion(GUEST_ADDR, SIZE, writable=True))
        self.queue = SplitQueue(0, 1024)
        self.queue.size, self.queue.indirect = entries, True
        self.queue.desc, self.queue.avail, self.queue.used = (
            self.driver.desc,
            self.driver.avail,
            self.driver.used,
        )
        self.ring = ShadowRing(self.queue, self.memory)
        self.ring.restart()
        self.queue.setup(self.memory)
        self.asked: list[list[tuple[int, int]]] = []

    def close(self) -> None:
        self.queue.stop()
        self.driver.close()
        self.ram.close()
        self.memory.close()

    def fetch(self) -> None:
        """Carry a plan out."""
        plan = self.ring.fetch()
        self.asked = []
        try:
            ranges = next(plan)
            while True:
                self.asked.append(ranges)
                ranges = plan.send([self.read(*where) for where in ranges])
        except StopIteration:
            pass

    def read(self, address: int, length: int) -> bytes:
        inside = GUEST_ADDR <= address <= GUEST_ADDR + SIZE - length
        return self.ram.read(address, length) if inside else b""

    def write_back(self) -> list[int]:
        """Carry out what was written; the addresses, in order."""
        parts = self.ring.written()
        for address, data in parts:
            self.ram.write(address, data)
        return [address for address, _ in parts]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_chain_is_fetched_and_written_back(rig: Rig) -> None:
    driver, ram = rig.driver, rig.ram
    for number in range(100):  # several times around the ring
        readable, first, second = ram.alloc(5), ram.alloc(4), ram.alloc(4)
        ram.write(readable, b"%05d" % number)
        driver.add([(readable, 5)], [(first, 4), (second, 4)], indirect=bool(number & 1))
        driver.publish(kick=False)
        rig.fetch()
        chain = rig.queue.pop()
        assert chain is not None
        assert chain.read() == b"%05d" % number
        rig.queue.push(chain.head, chain.write(b"answer"))
        addresses = rig.write_back()
        assert addresses[:2] == [first, second]
        assert addresses[-1] == driver.used + 2
        assert ram.read(first, 4) + ram.read(second, 4) == b"answer\0\0"
        assert driver.take_used() == [(chain.head, 6)]
        assert rig.write_back() == []


def test_plan_reads_in_order_of_dependence(rig: Rig) -> None:
    readable, writable = rig.ram.alloc(64), rig.ram.alloc(64)
    rig.driver.add([(readable, 64)], [(writable, 64)], indirect=True)
    rig.driver.publish(kick=False)
    rig.fetch()
    avail, table, *_ = rig.asked[0]
    assert (avail, table) == ((rig.driver.avail, 4 + 2 * 16), (rig.driver.desc, 16 * 16))
    assert [length for _, length in rig.asked[1]] == [32]
    assert rig.asked[2:] == [[(readable, 64)]]  # what is to be written is not read


def test_driver_flags_stay_zero_in_shadow_copy(rig: Rig) -> None:
    rig.driver.set_no_interrupt(True)
    rig.driver.add([(rig.ram.alloc(64), 64)])
    rig.driver.publish(kick=False)
    rig.fetch()
    assert rig.queue.pop() is not None
    assert rig.queue.should_interrupt()


def test_chains_beyond_round_limit_wait(rig: Rig) -> None:
    buffer = rig.ram.alloc(CHAIN_BYTES)
    for _ in range(16):
        rig.driver.add([(buffer, CHAIN_BYTES)])
    rig.driver.publish(kick=False)
    rig.fetch()
    rig.fetch()  # changes nothing, nothing was taken
    assert rig.queue.pending() == ROUND_BYTES // CHAIN_BYTES
    assert rig.ring.held_back
    chain = rig.queue.pop()
    assert chain is not None
    rig.queue.push(chain.head, 0)
    rig.fetch()
    assert len(rig.asked[-1]) == 1


def test_too_long_chain_is_visible_without_fetch(rig: Rig) -> None:
    rig.driver.add([(GUEST_ADDR, 1 << 19)] * 3)
    rig.driver.publish(kick=False)
    rig.fetch()
    assert len(rig.asked) == 1
    chain = rig.queue.pop()
    assert chain is not None
    assert chain.readable_bytes == 3 << 19


def test_jump_of_index_is_left_to_queue(rig: Rig) -> None:
    rig.driver.avail_idx = 1000
    rig.driver.publish(kick=False)
    rig.fetch()
    with pytest.raises(QueueError, match="jumped 1000 ahead"):
        rig.queue.pop()


def test_decrease_of_index_is_left_to_queue(rig: Rig) -> None:
    for _ in range(8):
        rig.driver.add([(rig.ram.alloc(8), 8)])
    rig.driver.publish(kick=False)
    rig.fetch()
    rig.driver.avail_idx = 3
    rig.driver.publish(kick=False)
    rig.fetch()
    assert len(rig.asked) == 1
    assert rig.queue.pending() == 3


def test_emptied_shadow_copy_fetches_chains_again(rig: Rig) -> None:
    for number in range(4):
        buffer = rig.ram.alloc(8)
        rig.ram.write(buffer, b"%08d" % number)
        rig.driver.add([(buffer, 8)])
    rig.driver.publish(kick=False)
    rig.fetch()
    chain = rig.queue.pop()
    assert chain is not None
    rig.queue.push(chain.head, 0)
    rig.write_back()
    for region in rig.memory.regions:
        assert isinstance(region, ShadowRegion)
        region.forget()
    rig.ring.restart()
    assert rig.queue.pop() is None
    rig.fetch()
    rest = [rig.queue.pop() for _ in range(3)]
    assert [chain and chain.read() for chain in rest] == [b"%08d" % number for number in (1, 2, 3)]
    assert rig.queue.pop() is None


descriptors = st.tuples(
    st.one_of(
        st.integers(GUEST_ADDR, GUEST_ADDR + 4096),
        st.sampled_from([0, GUEST_ADDR + SIZE - 8, (1 << 64) - 1]),
    ),
    st.one_of(st.integers(0, 64), st.sampled_from([16 * MAX_CHAIN, 0xFFFFFFFF, 1 << 17])),
    st.integers(0, 7),
    st.integers(0, 20),
)


@given(
    st.lists(descriptors, min_size=16, max_size=16),
    st.lists(st.integers(0, 17), min_size=16, max_size=16),
    st.integers(0, 20),
)
def test_random_rings_do_not_raise(
    table: list[tuple[int, int, int, int]], heads: list[int], index: int
) -> None:
    rig = Rig()
    try:
        for at, descriptor in enumerate(table):
            rig.driver.set_desc(at, *descriptor)
        for head in heads[:index]:
            rig.driver.offer(head)
        rig.driver.avail_idx = index
        rig.driver.publish(kick=False)
        for _ in range(2):
            rig.fetch()
            assert sum(length for step in rig.asked for _, length in step) <= 2 * ROUND_BYTES + CHAIN_BYTES
            try:
                while (chain := rig.queue.pop()) is not None:
                    rig.queue.push(chain.head, chain.write(b"x" * 100))
            except QueueError:
                pass
            assert sum(len(data) for _, data in rig.ring.written()) < 1 << 16
    finally:
        rig.close()


def test_invalid_shadow_region_is_refused() -> None:
    with pytest.raises(GuestMemoryError, match="cannot be shadowed"):
        ShadowRegion(0, 1 << 62, writable=True)
    with pytest.raises(GuestMemoryError, match="is empty"):
        ShadowRegion(0, 0, writable=True)


def test_shadow_of_read_only_memory_is_not_written() -> None:
    memory = GuestMemory()
    memory.add(ShadowRegion(0, 4096, writable=False))
    put(memory, 10, b"rom")
    assert memory.read(10, 3) == b"rom"
    with pytest.raises(GuestMemoryError, match="is read-only"):
        memory.write(10, b"ram")
    memory.close()

"""Drivers that break the rules of the ring: each ends in QueueError, in bounded time, with no byte touched outside."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.ring_pair import RingPair

from vnic.lab.played.guest_memory import GUEST_ADDR
from vnic.memory.guest import MappedRegion
from vnic.virtio.queue import MAX_CHAIN, QueueError

NEXT, WRITE, INDIRECT = 1, 2, 4


@pytest.fixture
def ring() -> Iterator[RingPair]:
    with RingPair() as pair:
        yield pair


def expect_error(ring: RingPair, match: str) -> None:
    before = ring.guest.mapping[:]
    with pytest.raises(QueueError, match=match):
        ring.queue.pop()
    with pytest.raises(QueueError, match=match):
        ring.queue.pop()  # nothing was taken
    assert ring.guest.mapping[:] == before
    ring.queue.fail()
    assert ring.queue.pop() is None


def offer(ring: RingPair, head: int) -> None:
    ring.driver.offer(head)
    ring.driver.publish()


def test_jump_of_avail_idx_breaks_queue(ring: RingPair) -> None:
    ring.driver.avail_idx = 17
    ring.driver.publish()
    with pytest.raises(QueueError, match="jumped 17 ahead"):
        ring.queue.pending()
    expect_error(ring, "jumped 17 ahead")


def test_decrease_of_avail_idx_breaks_queue(ring: RingPair) -> None:
    ring.driver.avail_idx = 0xFFFF
    ring.driver.publish()
    expect_error(ring, "jumped 65535 ahead")


def test_full_ring_is_accepted(ring: RingPair) -> None:
    for _ in range(16):
        ring.driver.add([ring.buffer(b"x")])
    ring.driver.publish()
    assert ring.queue.pending() == 16


@pytest.mark.parametrize("head", [16, 255, 0xFFFF])
def test_head_outside_of_table_breaks_queue(ring: RingPair, head: int) -> None:
    offer(ring, head)
    assert ring.queue.pop_span(0) is None
    expect_error(ring, "outside of its table")


def test_next_outside_of_table_breaks_queue(ring: RingPair) -> None:
    ring.driver.set_desc(0, *ring.buffer(b"x"), flags=NEXT, following=16)
    offer(ring, 0)
    expect_error(ring, "outside of its table")


@pytest.mark.parametrize("length", [1, 16])
def test_looped_chain_breaks_queue(ring: RingPair, length: int) -> None:
    buffer = ring.buffer(b"x")
    for index in range(length):
        ring.driver.set_desc(index, *buffer, flags=NEXT, following=(index + 1) % length)
    offer(ring, 0)
    expect_error(ring, "loops or is too long")


def test_empty_buffer_breaks_queue(ring: RingPair) -> None:
    ring.driver.set_desc(0, ring.buffer(b"x")[0], 0)
    offer(ring, 0)
    expect_error(ring, "zero bytes")


END = GUEST_ADDR + (1 << 20)


@pytest.mark.parametrize(
    ("addr", "length"),
    [
        (0, 16),
        (GUEST_ADDR - 8, 16),
        (END - 8, 16),
        (END, 1),
        (GUEST_ADDR, 0xFFFFFFFF),
        ((1 << 64) - 8, 16),
        ((1 << 64) - 1, 0xFFFFFFFF),
    ],
)
@pytest.mark.parametrize("flags", [0, WRITE])
def test_buffer_outside_of_memory_breaks_queue(ring: RingPair, addr: int, length: int, flags: int) -> None:
    ring.driver.add([ring.buffer(b"good")])
    ring.driver.publish()
    assert ring.take().read() == b"good"  # so that the region is the known one
    ring.driver.set_desc(9, addr, length, flags)
    offer(ring, 9)
    assert ring.queue.pop_span(flags) is None
    expect_error(ring, "memory region")


def test_readable_after_writable_breaks_queue(ring: RingPair) -> None:
    ring.driver.set_desc(0, *ring.buffer(4), flags=NEXT | WRITE, following=1)
    ring.driver.set_desc(1, *ring.buffer(4))
    offer(ring, 0)
    expect_error(ring, "readable buffer behind a writable one")


def test_indirect_without_feature_breaks_queue() -> None:
    with RingPair(indirect=False) as ring:
        ring.driver.add([ring.buffer(b"x")], indirect=True)
        ring.driver.publish()
        expect_error(ring, "indirect")


@pytest.mark.parametrize("length", [0, 8, 17, 16 * (MAX_CHAIN + 1), 0xFFFFFFF0])
def test_indirect_table_of_invalid_size_breaks_queue(ring: RingPair, length: int) -> None:
    ring.driver.set_desc(0, GUEST_ADDR, length, INDIRECT)
    offer(ring, 0)
    expect_error(ring, "indirect table")


def test_indirect_table_outside_of_memory_breaks_queue(ring: RingPair) -> None:
    ring.driver.set_desc(0, END - 16, 32, INDIRECT)
    offer(ring, 0)
    expect_error(ring, "memory region")


def test_indirect_descriptor_with_next_breaks_queue(ring: RingPair) -> None:
    ring.driver.set_desc(0, GUEST_ADDR, 16, INDIRECT | NEXT, 1)
    offer(ring, 0)
    expect_error(ring, "indirect")


def table_of(ring: RingPair, *descriptors: tuple[int, int, int, int]) -> None:
    table = ring.guest.alloc(16 * len(descriptors))
    data = b"".join(
        addr.to_bytes(8, "little")
        + length.to_bytes(4, "little")
        + flags.to_bytes(2, "little")
        + following.to_bytes(2, "little")
        for addr, length, flags, following in descriptors
    )
    ring.guest.write(table, data)
    ring.driver.set_desc(0, table, len(data), INDIRECT)
    offer(ring, 0)


def test_nested_indirect_table_breaks_queue(ring: RingPair) -> None:
    table_of(ring, (GUEST_ADDR, 16, INDIRECT, 0))
    expect_error(ring, "indirect")


def test_looped_indirect_table_breaks_queue(ring: RingPair) -> None:
    table_of(ring, (GUEST_ADDR, 16, NEXT, 1), (GUEST_ADDR, 16, NEXT, 0))
    expect_error(ring, "loops or is too long")


def test_next_outside_of_indirect_table_breaks_queue(ring: RingPair) -> None:
    table_of(ring, (GUEST_ADDR, 16, NEXT, 2), (GUEST_ADDR, 16, 0, 0))
    expect_error(ring, "outside of its table of 2")


def test_longest_chain_is_accepted(ring: RingPair) -> None:
    table_of(ring, *[(GUEST_ADDR, 1, NEXT, n + 1) for n in range(MAX_CHAIN - 1)], (GUEST_ADDR, 1, 0, 0))
    assert ring.take().readable_bytes == MAX_CHAIN


def test_overlapping_buffers_are_not_copied_at_pop(ring: RingPair) -> None:
    """No bytes are copied before the reader bounded them: 256 MiB here, of 256 KiB."""
    table_of(ring, *[(GUEST_ADDR, 1 << 18, NEXT, n + 1) for n in range(1023)], (GUEST_ADDR, 1 << 18, 0, 0))
    chain = ring.take()
    assert chain.readable_bytes == 1024 << 18
    assert len(chain.readable) == 1024


def test_chain_over_too_many_regions_breaks_queue(ring: RingPair) -> None:
    page, first = 4096, 1 << 40
    for number in range(400):
        ring.memory.add(MappedRegion(first + number * page, page, ring.guest.fd, 0))
    buffers = 6
    table_of(ring, *[(first, 400 * page, NEXT, n + 1) for n in range(buffers - 1)], (first, 400 * page, 0, 0))
    expect_error(ring, "too many memory regions")


def test_zeroed_rings_break_queue(ring: RingPair) -> None:
    ring.driver.add([ring.buffer(b"x")])
    ring.driver.publish()
    ring.guest.write(ring.driver.desc, bytes(16 * 16))
    expect_error(ring, "zero bytes")


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_random_rings_give_chains_or_queue_error(seed: int, rounds: int) -> None:
    """With any ring contents, pop returns a chain inside memory or None, or raises QueueError."""
    source = random.Random(seed)
    with RingPair(8) as ring:
        base, size = ring.guest.guest_addr, ring.guest.size
        for _ in range(rounds):
            for index in range(8):
                addr = source.choice(
                    (base + source.randrange(size), ring.driver.desc, source.getrandbits(64), base + size - 4)
                )
                length = source.choice((16, 32, 128, 0, source.randrange(1 << 16), source.getrandbits(32)))
                ring.driver.set_desc(index, addr, length, source.getrandbits(3), source.randrange(10))
            ring.driver.avail_idx += source.choice((1, 1, 1, 3, 8, 9))
            for at in range(8):
                ring.guest.write(ring.driver.avail + 4 + 2 * at, source.randrange(9).to_bytes(2, "little"))
            ring.driver.avail_idx &= 0xFFFF
            ring.driver.publish(kick=False)
            try:
                for _ in range(20):
                    kind = source.choice((0, WRITE))
                    span = ring.queue.pop_span(kind)
                    if span is not None:
                        assert 0 <= span[2] < span[3] <= size
                        ring.queue.push(span[0], 0)
                        continue
                    chain = ring.queue.pop()
                    if chain is None:
                        break
                    for _, start, stop in chain.readable + chain.writable:
                        assert 0 <= start < stop <= size
                    assert sum(stop - start for _, start, stop in chain.readable) == chain.readable_bytes
                    assert sum(stop - start for _, start, stop in chain.writable) == chain.writable_bytes
                    ring.queue.push(chain.head, chain.writable_bytes)
            except QueueError:
                ring.queue.fail()
                assert ring.queue.pop() is None
                ring.setup(base=ring.driver.avail_idx)

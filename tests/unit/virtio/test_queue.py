"""The device's side of a split ring, driven by an honest driver (virtio 1.2 §2.7)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.ring_pair import RingPair

from vnic.virtio import queue
from vnic.virtio.constants import DESC_WRITE
from vnic.virtio.queue import QueueError
from vnic.virtio.queue_state import QueueState


@pytest.fixture
def ring() -> Iterator[RingPair]:
    with RingPair() as pair:
        yield pair


def test_readable_buffer_is_popped_and_pushed(ring: RingPair) -> None:
    head = ring.driver.add([ring.buffer(b"hello")])
    assert ring.queue.pop() is None, "not shown yet"
    ring.driver.publish()
    chain = ring.take()
    assert (chain.head, chain.read(), chain.writable_bytes) == (head, b"hello", 0)
    ring.queue.push(chain.head, 0)
    assert ring.driver.take_used() == [(head, 0)]
    assert ring.queue.pop() is None


@pytest.mark.parametrize("indirect", [False, True])
def test_chain_has_readable_and_writable_buffers(ring: RingPair, indirect: bool) -> None:
    out = [ring.buffer(b"abc"), ring.buffer(b"d"), ring.buffer(b"efgh")]
    into = [ring.buffer(2), ring.buffer(5)]
    head = ring.driver.add(out, into, indirect=indirect)
    ring.driver.publish()
    chain = ring.take()
    assert (chain.read(), chain.readable_bytes, chain.writable_bytes) == (b"abcdefgh", 8, 7)
    assert chain.write(b"123456789") == 7
    assert ring.guest.read(*into[0]) + ring.guest.read(*into[1]) == b"1234567"
    ring.queue.push(chain.head, 7)
    assert ring.driver.take_used() == [(head, 7)]


def test_direct_descriptors_may_precede_indirect_table(ring: RingPair) -> None:
    """§2.7.5.3.2: the device must handle this."""
    first, second = ring.buffer(b"one "), ring.buffer(b"two")
    table = ring.guest.alloc(16)
    ring.guest.write(table, second[0].to_bytes(8, "little") + second[1].to_bytes(4, "little") + bytes(4))
    ring.driver.set_desc(0, *first, flags=1, following=1)
    ring.driver.set_desc(1, table, 16, flags=4)
    ring.driver.offer(0)
    ring.driver.publish()
    assert ring.take().read() == b"one two"


def test_pop_span_pops_single_descriptor_chain(ring: RingPair) -> None:
    buffers = [ring.buffer(b"first"), ring.buffer(b"second")]
    for each in buffers:
        ring.driver.add([each])
    ring.driver.publish()
    assert ring.queue.pop_span(0) is None, "the region is not known yet"
    assert ring.take().read() == b"first"
    assert ring.queue.pop_span(DESC_WRITE) is None, "it is a readable one"
    span = ring.queue.pop_span(0)
    assert span is not None
    _, mapping, start, stop = span
    assert mapping[start:stop] == b"second"
    assert ring.queue.pop_span(0) is None


def test_rewound_chains_are_popped_again(ring: RingPair) -> None:
    for text in (b"a", b"b", b"c"):
        ring.driver.add([ring.buffer(text)])
    ring.driver.publish()
    assert [ring.take().read() for _ in range(2)] == [b"a", b"b"]
    ring.queue.rewind(2)
    assert ring.queue.last_avail == 0
    assert [ring.take().read() for _ in range(3)] == [b"a", b"b", b"c"]
    ring.driver.add([ring.buffer(b"d")])
    ring.driver.publish()
    assert ring.take().read() == b"d"
    ring.queue.rewind(2)
    assert [ring.take().read() for _ in range(2)] == [b"c", b"d"]
    assert ring.queue.last_avail == 4


def test_indices_wrap_at_2_to_16() -> None:
    with RingPair(4) as ring:
        data = ring.buffer(b"x")
        for number in range(70_000):
            head = ring.driver.add([data])
            ring.driver.publish(kick=False)
            span = ring.queue.pop_span(0)
            assert (span[0] if span else ring.take().head) == head
            ring.queue.push(head, number & 1)
            assert ring.driver.take_used() == [(head, number & 1)]
        assert ring.queue.last_avail == ring.queue.used_idx == 70_000 & 0xFFFF


def test_push_unwritten_returns_many_chains(ring: RingPair) -> None:
    heads = [ring.driver.add([ring.buffer(b"x")]) for _ in range(10)]
    ring.driver.publish()
    taken = [ring.take().head for _ in range(10)]
    ring.queue.push_unwritten(taken)
    assert ring.driver.take_used() == [(head, 0) for head in heads]


def test_added_used_elements_become_visible_at_publish(ring: RingPair) -> None:
    for _ in range(2):
        ring.driver.add([], [ring.buffer(4)])
    ring.driver.publish()
    for _ in range(2):
        ring.queue.add_used(ring.take().head, 4)
    assert ring.driver.take_used() == []
    ring.queue.publish()
    assert len(ring.driver.take_used()) == 2


# -- starting and stopping --------------------------------------------------------------------------------------


def test_ring_resumes_from_base(ring: RingPair) -> None:
    for text in (b"a", b"b", b"c"):
        ring.driver.add([ring.buffer(text)])
    ring.driver.publish()
    ring.queue.push(ring.take().head, 0)
    assert ring.queue.stop() == 1
    assert ring.queue.pop() is None
    ring.setup(base=2)
    assert ring.take().read() == b"c"
    ring.setup()
    assert ring.take().read() == b"b", "used.idx says so"


def test_stop_enables_kicks(ring: RingPair) -> None:
    ring.queue.suppress_kicks(True)
    assert ring.driver.used_flags == 1
    ring.queue.stop()
    assert ring.driver.used_flags == 0


def test_queue_states_follow_lifecycle(ring: RingPair) -> None:
    seen = [ring.queue.state]
    ring.queue.fail()
    seen.append(ring.queue.state)
    assert ring.queue.pop() is None
    ring.setup()
    seen.append(ring.queue.state)
    assert seen == [QueueState.RUNNING, QueueState.BROKEN, QueueState.RUNNING]
    ring.queue.reset()
    assert (ring.queue.state, ring.queue.size, ring.queue.desc) == (QueueState.STOPPED, 1024, 0)


@pytest.mark.parametrize("size", [0, 3, -4, 2048, 65536])
def test_invalid_size_is_refused(ring: RingPair, size: int) -> None:
    ring.queue.size = size
    with pytest.raises(QueueError, match="size"):
        ring.queue.setup(ring.memory)
    assert ring.queue.state is QueueState.STOPPED


@pytest.mark.parametrize(("part", "align"), [("desc", 16), ("avail", 2), ("used", 4)])
def test_invalid_ring_address_is_refused(ring: RingPair, part: str, align: int) -> None:
    end = ring.guest.guest_addr + ring.guest.size
    good = getattr(ring.queue, part)
    for addr in (good + align // 2, 0, end - align, end, (1 << 64) - align, -align):
        setattr(ring.queue, part, addr)
        with pytest.raises(QueueError):
            ring.queue.setup(ring.memory)
        assert ring.queue.pop() is None


# -- notifications ----------------------------------------------------------------------------------------------


def test_driver_can_suppress_interrupts(ring: RingPair) -> None:
    assert ring.queue.should_interrupt()
    ring.driver.set_no_interrupt(True)
    assert not ring.queue.should_interrupt()


def test_kicks_can_be_suppressed(ring: RingPair) -> None:
    ring.queue.suppress_kicks(True)
    ring.driver.publish()
    assert ring.driver.kicks() == 0
    ring.queue.suppress_kicks(False)
    ring.driver.publish()
    assert ring.driver.kicks() == 1


def test_without_fence_notifications_are_not_suppressed(
    ring: RingPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "FENCED", False)
    ring.driver.set_no_interrupt(True)
    assert ring.queue.should_interrupt()
    ring.queue.suppress_kicks(True)
    assert ring.driver.used_flags == 0


def test_event_idx_asks_for_each_interrupt_by_index(ring: RingPair) -> None:
    """§2.7.7.1: the driver names the used element that it waits for."""
    ring.queue.event_idx = ring.driver.event_idx = True
    assert ring.queue.should_interrupt(), "the first look: nothing is known of the driver"
    told = []
    for number in range(6):
        ring.queue.push(ring.queue_one(), 0)
        told.append(ring.queue.should_interrupt())
        if number == 2:
            ring.driver.take_used()
    assert told == [True, False, False, True, False, False]
    ring.driver.take_used()
    ring.driver.set_no_interrupt(True)
    ring.queue.push(ring.queue_one(), 0)
    assert not ring.queue.should_interrupt()


def test_event_idx_asks_for_each_kick_by_index(ring: RingPair) -> None:
    """§2.7.10: the device names the available element that it waits for."""
    ring.queue.event_idx = ring.driver.event_idx = True
    kicks = []
    for number in range(6):
        ring.driver.add([ring.buffer(b"x")])
        ring.driver.publish()
        kicks.append(ring.driver.kicks())
        if number == 2:
            while ring.queue.pop():
                pass
    assert kicks == [1, 0, 0, 1, 0, 0], "a driver kicks again when the device has found the ring empty"
    ring.queue.suppress_kicks(True)
    while ring.queue.pop():
        pass
    ring.driver.add([ring.buffer(b"x")])
    ring.driver.publish()
    assert ring.driver.kicks() == 0
    ring.queue.suppress_kicks(False)
    assert ring.queue.pop() is not None, "made available while kicks were suppressed"
    assert ring.queue.pop() is None
    ring.driver.add([ring.buffer(b"x")])
    ring.driver.publish()
    assert ring.driver.kicks() == 1


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_event_idx_loses_no_notification(data: st.DataObject) -> None:
    """Whoever has nothing left to do gets a notification for what comes next, over the wrap of the indices, too."""
    with RingPair(size=8) as ring:
        ring.queue.event_idx = ring.driver.event_idx = True
        start = data.draw(st.integers(0, 0xFFFF))
        ring.begin_at(start)
        driver_idle = device_idle = True
        for _ in range(40):
            match data.draw(st.sampled_from(("add", "serve", "take", "suppress"))):
                case "add" if ring.driver.free:
                    ring.driver.add([ring.buffer(b"x")])
                    ring.driver.publish()
                    kicked = ring.driver.kicks()
                    assert kicked or not device_idle or ring.queue.kicks_suppressed
                    device_idle = device_idle and not kicked
                case "serve":
                    ring.queue.suppress_kicks(False)
                    while chain := ring.queue.pop():
                        ring.queue.push(chain.head, 0)
                    device_idle = True
                    interrupts = ring.queue.should_interrupt()
                    assert interrupts or not driver_idle or ring.driver.used_idx == ring.driver.last_used
                    driver_idle = driver_idle and not interrupts
                case "take":
                    ring.driver.take_used()
                    driver_idle = True
                case "suppress":
                    ring.queue.suppress_kicks(True)


# -- the memory map changes under it ----------------------------------------------------------------------------


def test_views_are_renewed_after_memory_change(ring: RingPair) -> None:
    ring.driver.add([ring.buffer(b"a")])
    ring.driver.add([ring.buffer(b"b")])
    ring.driver.publish()
    assert ring.take().read() == b"a"
    ring.queue.push(0, 0)
    region = ring.guest.region()
    ring.queue.invalidate()
    ring.memory.remove(region.guest_addr, region.size)
    assert ring.queue.pop() is None, "unmapped: the ring waits"
    assert ring.queue.ready
    ring.memory.add(region)
    assert ring.take().read() == b"b"
    ring.queue.push(1, 0)
    assert ring.driver.used_idx == 2


def test_invalidated_views_release_mapping(ring: RingPair) -> None:
    mapping = ring.memory.regions[0].mapping
    assert mapping is not None
    ring.queue.invalidate()
    ring.memory.close()
    assert mapping.closed


# -- any honest driver ------------------------------------------------------------------------------------------

chains = st.lists(
    st.tuples(
        st.lists(st.binary(min_size=1, max_size=40), max_size=3),
        st.lists(st.integers(1, 40), max_size=3),
        st.booleans(),
    ).filter(lambda each: bool(each[0] or each[1])),
    max_size=10,
)


@settings(max_examples=60)
@given(st.lists(chains, max_size=6))
def test_device_pops_what_driver_adds(
    rounds: list[list[tuple[list[bytes], list[int], bool]]],
) -> None:
    with RingPair(64) as ring:
        for batch in rounds:
            added = []
            for readable, writable, indirect in batch:
                into = [ring.buffer(size) for size in writable]
                head = ring.driver.add([ring.buffer(data) for data in readable], into, indirect=indirect)
                added.append((head, b"".join(readable), into))
            ring.driver.publish()
            assert ring.queue.pending() == len(added)
            for head, sent, into in added:
                chain = ring.take()
                answer = bytes(range(chain.writable_bytes))
                assert (chain.head, chain.read(), chain.write(answer)) == (head, sent, len(answer))
                ring.queue.push(head, len(answer))
                assert b"".join(ring.guest.read(*each) for each in into) == answer
            assert ring.queue.pop() is None
            assert [head for head, _ in ring.driver.take_used()] == [head for head, _, _ in added]

"""A ring whose record is older than the ring: it goes on where guest memory says."""

from __future__ import annotations

import pytest
from tests.fakes.ring_pair import RingPair

from vnic.record import decode, encode
from vnic.virtio.queue import SplitQueue
from vnic.virtio.queue_record import QueueRecord


def restored(pair: RingPair, data: bytes) -> SplitQueue:
    queue = SplitQueue(0, pair.queue.max_size)
    queue.restore(decode(QueueRecord, data), pair.memory)
    return queue


@pytest.mark.parametrize("mapped", [True, False])
def test_ring_goes_on_at_used_idx_of_memory(mapped: bool) -> None:
    with RingPair(16) as pair:
        if not mapped:
            pair.queue.invalidate()
        old = encode(pair.queue.save())
        for number in range(5):
            pair.driver.add([pair.buffer(b"%d" % number)])
        pair.driver.publish()
        for _ in range(3):
            pair.queue.push(pair.take().head, 0)

        queue = restored(pair, old)
        assert queue.pending() == 2
        chain = queue.pop()
        assert chain is not None
        assert chain.read() == b"3"
        assert (queue.last_avail, queue.used_idx) == (4, 3)
        queue.stop()


def test_ring_that_is_stopped_before_it_was_used_says_where_it_is() -> None:
    with RingPair(16) as pair:
        pair.queue.invalidate()
        old = encode(pair.queue.save())
        pair.driver.add([pair.buffer(b"1")])
        pair.driver.publish()
        pair.queue.push(pair.take().head, 0)
        assert restored(pair, old).stop() == 1


def test_chains_that_were_saved_and_not_published_are_published() -> None:
    with RingPair(16) as pair:
        head = pair.driver.add([pair.buffer(b"1")])
        pair.driver.publish()
        pair.queue.add_used(pair.take().head, 1)
        saved = pair.queue.save()
        assert pair.driver.take_used() == []

        queue = restored(pair, encode(saved))
        queue.publish_saved(saved.used_idx)
        assert queue.pending() == 0
        assert pair.driver.take_used() == [(head, 1)]
        queue.stop()


def test_driver_of_a_killed_process_kicks_and_is_interrupted_again() -> None:
    with RingPair(16) as pair:
        pair.queue.suppress_kicks(True)
        assert pair.driver.used_flags == 1
        queue = restored(pair, encode(pair.queue.save()))
        queue.revive()
        assert pair.driver.used_flags == 0
        queue.stop()

"""What the soak asks of its guests is less than they can do, so that a ping that is lost was lost by vnic."""

from __future__ import annotations

from collections import Counter

from tests.soak.lab import FAR_GUESTS, cables
from tests.soak.rounds import ECHO_REPLIES, PINGS


def test_a_guest_can_answer_all_pings_of_a_round_at_once() -> None:
    linux = Counter(wire.far.guest for wire in cables(list(FAR_GUESTS)) if wire.far.guest != "dpdk")
    assert linux
    for count in linux.values():
        assert count * PINGS <= ECHO_REPLIES

"""The soak asks of its guests no more than they can do, and tells what was lost from what came twice."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.soak.lab import FAR_GUESTS, cables
from tests.soak.pings import Pings
from tests.soak.rounds import ECHO_REPLIES, PINGS, may_repeat


def test_a_guest_can_answer_all_pings_of_a_round_at_once() -> None:
    linux = Counter(wire.far.guest for wire in cables(list(FAR_GUESTS)) if wire.far.guest != "dpdk")
    assert linux
    for count in linux.values():
        assert count * PINGS <= ECHO_REPLIES


@pytest.mark.parametrize(
    ("numbers", "lost", "disordered", "repeated"),
    [
        ([0, 1, 2, 3], (), (), ()),
        ([0, 2, 3], (1,), (), ()),
        ([0, 2, 1, 3], (), (1,), ()),
        ([0, 1, 2, 1, 2, 3], (), (), (1, 2)),
        ([0, 2, 2, 1], (3,), (1,), (2,)),
    ],
)
def test_an_answer_that_comes_again_is_not_one_out_of_order(
    numbers: list[int], lost: tuple[int, ...], disordered: tuple[int, ...], repeated: tuple[int, ...]
) -> None:
    text = "".join(f"seq={number} time=1.5 ms\n" for number in numbers) + "4 packets transmitted\n"
    assert Pings.of(text) == Pings(4, lost, disordered, repeated, 1.5)


def test_only_the_death_of_who_moves_the_packets_lets_an_answer_come_twice() -> None:
    wires = {wire.name: wire for wire in cables(list(FAR_GUESTS))}
    for name, victims in (("e1000", {"control", "both"}), ("virtio-net", {"wire", "both"})):
        for victim in ("control", "wire", "both"):
            assert may_repeat(wires[name], Counter([victim])) is (victim in victims)

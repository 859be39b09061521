"""The random numbers: those of the paper, correlated as the kernel's; and the tables of the distributions."""

from __future__ import annotations

import statistics

import pytest

from vnic.net.netem.random import Draw, Random, RandomRecord, mixed, streams
from vnic.net.netem.tables import ENTRIES, SCALE, table

STEP = 0x9E3779B97F4A7C15


def test_splitmix64_gives_the_published_numbers() -> None:
    """The first outputs of Vigna's splitmix64.c for the seed 1234567."""
    state, found = 1234567, []
    for _ in range(5):
        state = state + STEP & (1 << 64) - 1
        found.append(mixed(state))
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert found == expected


def test_streams_of_a_seed_differ_and_repeat() -> None:
    rx, tx = streams(7)
    assert (rx, tx) == streams(7)
    assert rx != tx
    assert streams(8) != (rx, tx)
    assert streams((1 << 64) - 1)


def test_correlation_keeps_a_part_of_the_last_number() -> None:
    half = (1 << 31) - 1
    random = Random(RandomRecord(random=5, last=[1000] * 5, counter=0))
    plain = Random(RandomRecord(random=5, last=[1000] * 5, counter=0))
    value = plain.draw()
    assert random.correlated(Draw.LOSS, half) == (value * (1 << 31) + 1000 * (1 << 31)) >> 32
    assert random.last[Draw.LOSS] != 1000
    assert random.last[Draw.DELAY] == 1000
    assert random.correlated(Draw.DELAY, 0) == plain.draw()
    assert random.last[Draw.DELAY] == 1000, "a draw without correlation is not kept"


@pytest.mark.parametrize("name", ["normal", "pareto", "paretonormal"])
def test_mean_of_a_table_is_about_zero(name: str) -> None:
    entries = table(name)
    assert len(entries) == ENTRIES
    assert list(entries) == sorted(entries)
    assert abs(statistics.fmean(entries)) < SCALE / 25, "the tail of pareto is cut at 16 bits"
    assert 0.8 * SCALE < statistics.pstdev(entries) < 1.2 * SCALE


def test_uniform_needs_no_table() -> None:
    assert not table("uniform")

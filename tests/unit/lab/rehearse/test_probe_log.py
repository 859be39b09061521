"""What is read from vnic-probe's lines, and when probes count as steady."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.lab.rehearse.log import HOLE_PROBES, PORT, BadLog, ProbeLog, Received

SETTLE = 1_000_000


def log(text: str) -> ProbeLog:
    made = ProbeLog()
    made.feed(text.encode())
    return made


def test_a_later_line_replaces_that_of_the_same_run() -> None:
    made = log("r 0 5 100 105\ns 7 1 110\nr 0 9 100 109\np 8 20000\nr 12 12 112 112\n")
    assert made.received == [Received(0, 9, 100, 109), Received(12, 12, 112, 112)]
    assert list(made.numbers()) == [*range(10), 12]
    assert (made.sent, made.refused, made.now, made.pauses) == (7, 1, 110, [(8, 20000)])


def test_a_doubled_probe_is_a_run_of_its_own() -> None:
    assert list(log("r 5 5 100 100\nr 5 5 101 101\n").numbers()) == [5, 5]


def test_how_many_were_sent_when() -> None:
    assert log("s 7 1 110\ns 9 1 130\n").progress == [(110, 7), (130, 9)]


def test_a_port_that_another_program_has_is_named() -> None:
    with pytest.raises(BadLog, match=f"UDP port {PORT}: Address already in use"):
        log(f"e {errno.EADDRINUSE}\n")


@given(st.lists(st.integers(0, 40), max_size=6))
def test_a_log_may_come_in_pieces(cuts: list[int]) -> None:
    text = b"s 1 0 100\nr 0 0 100 100\np 3 9\ns 2 0 200\n"
    made = ProbeLog()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True):
        made.feed(text[start:end])
    assert (made.sent, made.size) == (2, len(text))
    assert made.received == [Received(0, 0, 100, 100)]


@pytest.mark.parametrize(
    "line",
    [
        *("", "r 1 2 3", "s 1 2", "p x 1", "sh: not found", "r 1 2 3 4 5", "r -"),
        *("r 5 4 1 2", "r -1 4 1 2", f"e {1 << 80}", f"r 0 {1 << 40} 1 2"),
    ],
)
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(BadLog):
        log(f"{line}\n")


def test_probes_are_steady_when_they_came_for_the_whole_time() -> None:
    assert log(f"r 0 1500 0 1500000\ns 1501 0 {1_500_100}\n").is_steady(SETTLE)
    assert not log("r 0 500 0 500000\ns 501 0 500100\n").is_steady(SETTLE)
    assert not log("s 501 0 500100\n").is_steady(SETTLE)


def test_single_losses_do_not_matter_and_holes_do() -> None:
    for missing, steady in ((HOLE_PROBES - 1, True), (HOLE_PROBES + 1, False)):
        first = 1000 + missing
        text = f"r 0 999 0 999000\nr {first} 1900 {first}000 1900000\ns 1901 0 1900100\n"
        assert log(text).is_steady(SETTLE) is steady


def test_probes_that_stopped_are_not_steady() -> None:
    assert not log("r 0 1500 0 1500000\ns 2500 0 2500000\n").is_steady(SETTLE)

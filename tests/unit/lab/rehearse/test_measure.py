"""The figures of an event, from traces that are made up: probes each millisecond over two paths."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from vnic.lab.file.load import load
from vnic.lab.rehearse.measure import Trace, Window, measure
from vnic.lab.rehearse.paths import Paths
from vnic.lab.rehearse.pcap import Sighting
from vnic.lab.rehearse.records import Direction

LAB = """
name: two
nodes: {h1: {kind: uml}, h2: {kind: uml}}
links:
  - endpoints: ["h1:eth1", "h2:eth1"]
  - endpoints: ["h1:eth2", "h2:eth2"]
"""
OLD, NEW = "h1:eth1 ── h2:eth1", "h1:eth2 ── h2:eth2"
CHANGE = 1_000_000
"""Probe 1000 is sent just then."""
UNTIL = 2_000_000
LINES = [(time, time // 1000) for time in range(100_000, 3_000_000, 100_000)]
"""The sender's own lines: a probe each millisecond."""
TRIP = 100
"""Microseconds from NIC to NIC."""


class Made:
    """A trace from h1 to h2 that is being made."""

    def __init__(self) -> None:
        self.trace = Trace("h1", "h2", Paths(load(LAB)[0]), 1000, [], [], LINES)

    def passes(self, numbers: Iterable[int], path: str, *, late: int = 0, delivered: bool = True) -> None:
        for number in numbers:
            sent = number * 1000
            for nic, after in ((f"h1.{path}", 10), (f"h2.{path}", TRIP + late)):
                self.trace.add(nic, Sighting(0, sent + after, number, sent))
            if delivered:
                self.trace.received.append(number)

    def left(self, numbers: Iterable[int], path: str) -> None:
        """They leave h1, and come nowhere."""
        for number in numbers:
            self.trace.add(f"h1.{path}", Sighting(0, number * 1000 + 10, number, number * 1000))

    def found(self, *, converged: bool = True, was_out: bool = False) -> Direction:
        self.trace.sort()
        return measure(self.trace, Window(CHANGE, UNTIL), converged=converged, was_out=was_out)


def test_a_path_that_fails_over() -> None:
    made = Made()
    made.passes(range(1000), "eth1")
    made.left(range(1000, 1003), "eth1")
    made.passes(range(1050, 2000), "eth2")
    found = made.found()
    assert found.outage_from_ms == pytest.approx(-0.9)
    assert found.outage_to_ms == pytest.approx(50.1)
    assert found.outage_ms == pytest.approx(51.0)
    assert (found.old_path, found.new_path) == (OLD, NEW)
    assert found.last_old_ms == pytest.approx(-0.9)
    assert found.first_new_ms == pytest.approx(50.1)
    assert (found.sent, found.lost, found.reordered, found.doubled) == (1000, 50, 0, 0)
    assert found.lost_at == {OLD: 3, "h1": 47}
    assert [(use.path, use.probes) for use in found.paths] == [(OLD, 1), (NEW, 950)]


def test_a_frame_at_the_nic_that_the_guest_drops_does_not_end_the_outage() -> None:
    made = Made()
    made.passes(range(1000), "eth1")
    made.passes(range(1010, 1080), "eth2", delivered=False)
    made.passes(range(1080, 2000), "eth2")
    found = made.found()
    assert found.first_new_ms == pytest.approx(80.1)
    assert found.outage_ms == pytest.approx(81.0)
    assert found.lost_at == {"h1": 10, NEW: 70}


def test_nothing_happens_where_the_path_is_another() -> None:
    made = Made()
    made.passes(range(2000), "eth2")
    found = made.found()
    assert (found.outage_ms, found.lost, found.outage_from_ms) == (0.0, 0, None)
    assert found.old_path == found.new_path == NEW
    assert (found.last_old_ms, found.first_new_ms) == (None, None)


def test_a_sender_that_stands_still_is_no_outage() -> None:
    made = Made()
    for number in range(2000):
        sent = number * 1000 + (100_000 if number >= 1200 else 0)
        made.trace.add("h2.eth1", Sighting(0, sent + TRIP, number, sent))
        made.trace.received.append(number)
    assert made.found().outage_ms == 0.0


def test_the_pause_of_a_sender_within_an_outage_is_told() -> None:
    made = Made()
    made.passes(range(1000), "eth1")
    made.passes(range(1050, 2000), "eth2")
    made.trace.pauses = [(990, 7000), (1020, 12_000), (1500, 9000)]
    assert made.found().pause_ms == pytest.approx(12.0)


def test_frames_that_wait_for_the_new_path_are_held_up_and_not_lost() -> None:
    made = Made()
    made.passes(range(1000), "eth1")
    for number in range(1000, 1060):
        made.passes([number], "eth2", late=(1060 - number) * 1000)
    made.passes(range(1060, 2000), "eth2")
    found = made.found()
    assert found.lost == 0
    assert found.outage_ms == pytest.approx(61.0)


def test_delays_without_a_loss_or_another_path_are_none() -> None:
    made = Made()
    made.passes(range(1500), "eth1")
    for number in range(1500, 1530):
        made.passes([number], "eth1", late=(1530 - number) * 1000)
    made.passes(range(1530, 2000), "eth1")
    assert made.found().outage_ms == 0.0


def test_reordered_and_doubled_frames_are_counted_once_each() -> None:
    made = Made()
    made.passes(range(2000), "eth1")
    received = made.trace.received
    received[1100], received[1101] = received[1101], received[1100]
    received.insert(1300, 1250)
    found = made.found()
    assert (found.lost, found.reordered, found.doubled) == (0, 1, 1)


def test_an_outage_that_does_not_end_lasts_to_the_end_of_the_time() -> None:
    made = Made()
    made.passes(range(1000), "eth1")
    found = made.found(converged=False)
    assert not found.converged
    assert found.outage_ms == pytest.approx(1000.9)
    assert found.outage_to_ms is None
    assert (found.old_path, found.new_path) == (OLD, "")
    # A clock is known but for the time from the sender's call to its NIC.
    assert found.sent == found.lost == pytest.approx(1000, abs=1)
    assert found.lost_at == {"h1": found.lost}


def test_a_probe_in_flight_at_the_change_is_no_path_of_its_end() -> None:
    made = Made()
    made.passes(range(1002), "eth1")
    found = made.found(converged=False)
    assert (found.old_path, found.new_path) == (OLD, "")
    assert found.last_old_ms == pytest.approx(1.1)
    assert found.outage_to_ms is None


def test_what_is_lost_before_the_change_is_no_loss_of_its_own() -> None:
    made = Made()
    made.passes(range(400), "eth1")
    made.left(range(400, 1030), "eth1")
    made.passes(range(1030, 2000), "eth2")
    found = made.found(was_out=True)
    assert found.sent == pytest.approx(1000, abs=1)
    assert found.lost == pytest.approx(30, abs=1)
    assert found.outage_from_ms == 0.0
    assert found.outage_ms == pytest.approx(30.1)
    assert (found.old_path, found.new_path, found.last_old_ms) == ("", NEW, None)
    assert found.first_new_ms == pytest.approx(30.1)


def test_an_event_without_any_arrival_counts_what_was_sent_in_its_time() -> None:
    made = Made()
    made.passes(range(400), "eth1")
    found = made.found(converged=False, was_out=True)
    assert found.sent == found.lost == pytest.approx(1000, abs=1)
    assert (found.outage_ms, found.outage_to_ms, found.paths) == (1000.0, None, [])


def test_probes_that_ended_long_before_the_change() -> None:
    made = Made()
    made.passes(range(10), "eth1")
    found = made.found(converged=False)
    assert found.sent == pytest.approx(1990, abs=1)
    assert found.old_path == OLD
    assert found.outage_ms == pytest.approx(1990.9)


def test_the_path_of_before_is_known_of_a_sender_that_stands_still_at_the_change() -> None:
    made = Made()
    made.passes(range(700), "eth1")
    made.passes(range(1010, 2000), "eth2")
    found = made.found()
    assert found.old_path == OLD
    assert found.last_old_ms == pytest.approx(-300.9)


def test_a_make_before_break_is_no_outage() -> None:
    made = Made()
    made.passes(range(1020), "eth1")
    made.passes(range(1020, 2000), "eth2")
    found = made.found()
    assert (found.outage_ms, found.lost) == (0.0, 0)
    assert found.last_old_ms == pytest.approx(19.1)
    assert found.first_new_ms == pytest.approx(20.1)

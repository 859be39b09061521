"""`vnic top`: rates from counters, the last hour from the journal, keys, and the table in small terminals."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.cli.test_link_filter import link

from vnic.cli.top import cells
from vnic.cli.top_screen import HEADER, Screen
from vnic.cli.top_state import (
    BARS,
    BUCKETS,
    HOUR_S,
    SORTS,
    TopState,
    buckets,
    count_text,
    rate_text,
    sparkline,
)

NOW = 1_700_000_000.0
STEP = HOUR_S / BUCKETS


def nic(name: str = "nic0", **changes: Any) -> dict[str, Any]:
    entry = link(name, operstate="up", **changes)
    return {"last-change": {"time": NOW - 2 * HOUR_S}, **entry} | {"last-change": {"time": NOW - 2 * HOUR_S}}


def change(number: int, ago: float, up: bool, kind: str = "operator", name: str = "nic0") -> dict[str, Any]:
    return {
        "id": number,
        "kind": "link",
        "name": name,
        "type": "nic",
        "link": "up" if up else "down",
        "cause": {"kind": kind},
        "time": NOW - ago,
    }


def traffic(bytes_in: int, **counts: int) -> dict[str, Any]:
    zero = dict.fromkeys(("frames-in", "bytes-in", "frames-out", "bytes-out", "dropped"), 0)
    return {"name": "nic0", "type": "nic", **zero, "bytes-in": bytes_in, **counts}


def hour(*records: dict[str, Any], entry: dict[str, Any] | None = None) -> str:
    state = TopState()
    state.tell_links([entry or nic()])
    state.tell_records(records)
    return sparkline(state.rows(NOW)[0].hour)


def test_a_link_without_a_change_was_as_it_is_now() -> None:
    assert hour() == BARS[-1] * BUCKETS
    assert hour(entry=nic(link="down")) == BARS[0] * BUCKETS


def test_an_hour_shows_when_a_link_was_down() -> None:
    shown = hour(change(1, 20 * STEP, False), change(2, 10 * STEP, True))
    assert shown == BARS[-1] * 10 + BARS[0] * 10 + BARS[-1] * 10


def test_a_flap_within_a_bucket_shows_as_neither_up_nor_down() -> None:
    shown = hour(change(1, 1.5, False), change(2, 1.4, True))
    assert shown[:-1] == BARS[-1] * (BUCKETS - 1)
    assert shown[-1] not in (BARS[0], BARS[-1])
    shown = hour(change(1, 1.5, True), change(2, 1.4, False), entry=nic(link="down"))
    assert shown[-1] not in (BARS[0], BARS[-1])


def test_before_it_was_created_there_was_no_link() -> None:
    assert hour(change(1, 10 * STEP, True, "created")) == " " * 20 + BARS[-1] * 10


def test_changes_before_the_hour_tell_how_it_began() -> None:
    state = TopState()
    state.tell_links([nic(link="down")])
    state.tell_records([change(1, HOUR_S + 50, True), change(2, HOUR_S + 40, False)])
    assert sparkline(state.rows(NOW)[0].hour) == BARS[0] * BUCKETS


def test_a_time_before_the_hour_and_a_clock_that_was_set_back_do_no_harm() -> None:
    assert buckets([(0.0, NOW - 2 * HOUR_S, True)], NOW) == [None] * BUCKETS
    assert buckets([(NOW + 50, NOW + 40, True)], NOW) == [None] * BUCKETS
    assert len(hour(change(1, -500, False), change(2, -400, True))) == BUCKETS


def test_rates_are_of_two_looks() -> None:
    state = TopState()
    state.tell_links([nic()])
    state.tell_traffic([traffic(1000)], 10.0)
    assert state.rows(NOW)[0].rates is None
    state.tell_traffic([traffic(2000, dropped=4)], 12.0)
    rates = state.rows(NOW)[0].rates
    assert rates is not None
    assert (rates.bits_in, rates.bits_out, rates.dropped) == (4000.0, 0.0, 2.0)
    state.tell_traffic([traffic(0)], 13.0)  # another one of that name
    rates = state.rows(NOW)[0].rates
    assert rates is not None
    assert rates.bits_in == 0


def test_a_link_that_is_gone_is_forgotten() -> None:
    state = TopState()
    state.tell_links([nic()])
    state.tell_records([change(1, 5, False), change(2, 5, False, name="gone")])
    assert state.last_id == 2
    state.rows(NOW)
    state.tell_links([nic("gone")])
    assert sparkline(state.rows(NOW)[0].hour) == BARS[-1] * BUCKETS


@pytest.mark.parametrize("sort", SORTS)
def test_all_orders_show_all_links(sort: str) -> None:
    state = TopState()
    state.tell_links([nic("nic10"), nic("nic2"), link("net0", "netdev")])
    names = [row.entry["name"] for row in state.rows(NOW, sort)]
    assert sorted(names) == ["net0", "nic10", "nic2"]
    if sort == "name":
        assert names == ["net0", "nic2", "nic10"]


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0, "-"),
        (12, "12 bit/s"),
        (1500, "1.5 kbit/s"),
        (250e3, "250 kbit/s"),
        (9.4e9, "9.4 Gbit/s"),
        (1e15, "1000.0 Tbit/s"),
    ],
)
def test_rates_have_the_unit_that_reads_best(bits: float, text: str) -> None:
    assert rate_text(bits) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "-"), (0.5, "0.5"), (12, "12"), (3400, "3.4k"), (5e9, "5.0G")]
)
def test_counts_have_a_short_form(count: float, text: str) -> None:
    assert count_text(count) == text


def test_a_name_cannot_write_on_the_terminal() -> None:
    state = TopState()
    state.tell_links([nic("nic\x1b[2J0")])
    assert "\x1b" not in "".join(cells(state.rows(NOW)[0]))


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "10")
    return Screen("wire")


def test_keys_sort_and_move_and_end(screen: Screen) -> None:
    screen.press(b"s")
    assert screen.sort == SORTS[1]
    for _ in SORTS[1:]:
        screen.press(b"s")
    assert screen.sort == SORTS[0]
    for key in (b"\x1b[B", b"\x1b[6~", b"k", b"g", b"r", b"\x1b[A", b"?", b"\xff"):
        screen.press(key)
    assert not screen.ended
    screen.press(b"q")
    assert screen.ended


def test_a_narrow_terminal_has_fewer_columns(screen: Screen) -> None:
    row = tuple(f"cell{index}" for index in range(len(HEADER)))
    headers = [str(column.header) for column in screen._table([row]).columns]
    assert headers == ["NAME", "LINK", "IN", "OUT", "LAST HOUR", "HELD BY"]

"""`vnic log` and `vnic why --at`: what they find, and how they say it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.journals import NOON, Times
from tests.integration.process import Place, new_place

from vnic.net.journal import Entry, Journal, JournalQuery
from vnic.net.records import Cause, LinkChange
from vnic.state.database import Bounds, Database
from vnic.state.place import default_path, make_folder
from vnic.state.reader import boot_id

WIDE = Bounds(1_000_000, 1e12)


class Past:
    """A journal of what happened in hours past: seconds are counted from NOON."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times = Times()
        self.journal = Journal(self.times.clock)

    def at(self, seconds: float) -> Past:
        self.times.now = NOON + seconds
        return self

    def start(self) -> None:
        self.journal.note("start", "started", "vnic 0.2.0 started, process 12")

    def end(self) -> None:
        self.journal.note("end", "ended", "vnic ended, by a signal")

    def guest(self, event: str) -> None:
        self.journal.note("guest", event, f"the guest: {event}", name="nic0")

    def change(self, link: str, text: str, name: str = "nic0", caused_by: int | None = None) -> LinkChange:
        cause = Cause("disconnected", "net0", text)
        kind = "nic" if name.startswith("nic") else "netdev"
        return self.journal.record(name, kind, link, cause, caused_by)  # type: ignore[arg-type]

    def write(self, boot: str = "") -> None:
        database = Database(self.path, WIDE, boot or boot_id())
        entries: list[Entry] = [
            entry for entry in self.journal.query(JournalQuery()) if entry.id > database.last_id
        ]
        database.write(entries, database.last_id + 1)
        database.close()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("TZ", "UTC")
    with new_place() as made:
        monkeypatch.setenv("XDG_STATE_HOME", made.environment["XDG_STATE_HOME"])
        yield made


@pytest.fixture
def past(place: Place) -> Past:
    """A start, a link that comes up, goes down at 60 s with its cause, and up at 300 s; a crash after that; a reboot,
    and an hour later a start that ends in order."""
    path = default_path("lab")
    make_folder(path.parent)
    made = Past(path)
    made.at(0).start()
    made.at(1).change("up", "peer connected", "net0")
    made.at(1).change("up", "peer connected")
    made.at(2).guest("attached")
    made.at(3).guest("driver-ready")
    cause = made.at(60).change("down", "peer closed", "net0")
    made.change("down", "peer closed", caused_by=cause.id).seen_us = 1_500_000
    made.at(300).change("up", "peer connected")
    made.write("an earlier boot")
    made.at(3900).start()
    made.at(3901).change("up", "peer connected")
    made.at(4000).end()
    made.write()
    return made


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_log_of_ended_vnic_is_read_from_file(place: Place, past: Past) -> None:
    result = place.verb("log")
    assert result.returncode == 0
    header, *found = rows(result.stdout)
    assert header == ["TIME", "ID", "NAME", "WHAT", "SEEN AFTER", "FOLLOWS", "WHY"]
    assert [row[3] for row in found] == [
        *("started", "up", "up", "attached", "driver-ready", "down", "down", "up", "started", "up", "ended"),
    ]
    assert found[6] == [
        "2024-12-03 12:01:00",
        "#7",
        "nic0",
        "down",
        "1.5 s",
        "#6 net0",
        "disconnected: peer closed (by net0)",
    ]
    assert found[8][6] == (
        "vnic 0.2.0 started, process 12; the one before was killed or crashed: its last record is of"
        " 2024-12-03 12:05:00, 1 h before, and the machine was booted since"
    )
    assert f"from {past.path}; no vnic was asked" in result.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["nic0"], [3, 4, 5, 7, 8, 10]),
        (["nic0", "--cause", "disconnected", "--limit", "2"], [8, 10]),
        (["--cause", "start"], [1, 9]),
        (["--since", "2024-12-03 12:01", "--until", "2024-12-03 12:05"], [6, 7]),
        (["-n", "lab", "--limit", "1"], [11]),
        (["nic7"], []),
    ],
)
def test_log_selects(place: Place, past: Past, words: list[str], found: list[int]) -> None:
    result = place.verb("log", "--json", *words)
    assert result.returncode == 0
    assert [entry["id"] for entry in json.loads(result.stdout)] == found


@pytest.mark.usefixtures("past")
def test_log_follows_causes_that_are_not_among_found(place: Place) -> None:
    _, row = rows(place.verb("log", "nic0", "--until", "2024-12-03 12:02", "--limit", "1").stdout)
    assert row[5] == "#6 net0"


def test_csv_is_no_formula(place: Place, past: Past) -> None:
    past.at(5000).change("down", "=1+1")
    past.write()
    table = list(csv.DictReader(place.verb("log", "--csv").stdout.splitlines()))
    assert table[-1]["text"] == "'=1+1"
    assert table[6]["caused-by"] == "6"
    assert table[6]["time"] == "2024-12-03T12:01:00.000000+00:00"
    assert table[0]["boot-id"] == "an earlier boot"


def test_why_at_a_time_to_come_is_refused(place: Place) -> None:
    result = place.verb("why", "nic0", "--at", "9999-12-01 12:00")
    assert result.returncode == 2
    assert "'9999-12-01 12:00' is still to come" in result.stderr


def test_texts_of_peers_do_not_reach_terminal(place: Place, past: Past) -> None:
    past.at(5000).change("down", "\x1b[2J\n")
    past.write()
    for words in (["log"], ["log", "--csv"], ["why", "nic0", "--at", "2024-12-03 13:30"]):
        result = place.verb(*words)
        assert "\x1b" not in result.stdout
        assert result.returncode == 0


@pytest.mark.parametrize(
    ("at", "first", "then"),
    [
        (
            "12:01:30",
            "nic0 was down at 2024-12-03 12:01:30 (since 2024-12-03 12:01:00, 30.0 s before)",
            [
                "disconnected: peer closed (by net0)",
                "guest: a VM was attached, its driver ran; it saw down after 1.5 s",
                "3 min later, at 2024-12-03 12:05:00: up, peer connected (by net0)",
            ],
        ),
        (
            "12:01:01",
            "nic0 was down at 2024-12-03 12:01:01 (since 2024-12-03 12:01:00, 1.0 s before)",
            ["guest: a VM was attached, its driver ran; it saw this 1.5 s after the change"],
        ),
        (
            "12:30",
            "nic0 at 2024-12-03 12:30:00: vnic was killed or crashed after 2024-12-03 12:05:00, and started again at"
            " 2024-12-03 13:05:00, after a boot of the machine",
            ["before, it was up: peer connected (by net0)"],
        ),
        (
            "13:05:30",
            "nic0 was up at 2024-12-03 13:05:30 (since 2024-12-03 13:05:01, 29.0 s before)",
            ["guest: none was attached"],
        ),
        ("13:05:00.5", "nic0 at 2024-12-03 13:05:00: it was not there, as far as the journal knows", []),
        ("14:00", "nic0 at 2024-12-03 14:00:00: no vnic ran: it had ended at 2024-12-03 13:06:40", []),
        ("11:00", "nic0 at 2024-12-03 11:00:00: the journal has no start of a vnic from before", []),
    ],
)
@pytest.mark.usefixtures("past")
def test_why_at_tells_link_guest_and_gaps(place: Place, at: str, first: str, then: list[str]) -> None:
    result = place.verb("why", "nic0", "--at", f"2024-12-03 {at}")
    assert result.returncode == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0] == first
    for text in then:
        assert text in lines


@pytest.mark.usefixtures("past")
def test_why_at_shows_chain_of_causes(place: Place) -> None:
    lines = place.verb("why", "nic0", "--at", "2024-12-03 12:02", "-c", "1").stdout.splitlines()
    assert lines[-3:] == [
        "  #7 2024-12-03 12:01:00: down, disconnected: peer closed (by net0)",
        "      guest saw it after 1.5 s",
        "      follows from #6, net0 down, disconnected: peer closed (by net0)",
    ]


@pytest.mark.usefixtures("past")
def test_why_at_for_programs(place: Place) -> None:
    answer = json.loads(place.verb("why", "nic0", "--at", "2024-12-03 12:02", "--json").stdout)
    assert (answer["link"], answer["vnic-ran"], answer["causes"][0]["id"]) == ("down", True, 6)
    answer = json.loads(place.verb("why", "nic0", "--at", "2024-12-03 12:30", "--json").stdout)
    assert (answer["link"], answer["vnic-ran"]) == ("unknown", False)


def test_killed_vnic_that_has_not_started_again(place: Place, past: Past) -> None:
    past.at(7200).start()
    past.at(7201).change("up", "peer connected")
    past.write()
    first = place.verb("why", "nic0", "--at", "2024-12-03 15:00").stdout.splitlines()[0]
    assert first == (
        "nic0 at 2024-12-03 15:00:00: vnic was killed or crashed after 2024-12-03 14:00:01, and has not started again"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["log", "-n", "nope"], "no vnic named 'nope' is running, and it has no journal at "),
        (["log", "--journal", "missing.db"], "missing.db: there is no such file"),
        (["why", "nic9", "--at", "2h"], "the journal has no change of 'nic9'"),
    ],
)
@pytest.mark.usefixtures("past")
def test_what_is_not_there_is_refused(place: Place, words: list[str], said: str) -> None:
    result = place.verb(*words)
    assert result.returncode == 1
    assert said in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["log", "--since", "noon"],
        ["log", "--limit", "0"],
        ["log", "--limit", "99999999999"],
        ["log", "--json", "--csv"],
        ["why", "nic0", "--at", "25:00"],
        ["why", "nic0", "--journal", "j.db"],
    ],
)
def test_wrong_usage_is_refused(place: Place, words: list[str]) -> None:
    assert place.verb(*words).returncode == 2


def test_one_of_several_journals_has_to_be_chosen(place: Place, past: Past) -> None:
    os.rename(past.path, past.path.with_name("other.db"))
    assert place.verb("log").returncode == 0
    Past(default_path("lab")).write()
    result = place.verb("log")
    assert result.returncode == 1
    assert "no vnic is running; choose the journal of one with --name: lab, other" in result.stderr


def test_no_journal_at_all_is_told(place: Place) -> None:
    assert "there is no journal in its usual place: give --journal PATH" in place.verb("log").stderr

"""Queries over memory and database together: nothing twice, nothing left out, and never an error of the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.journals import BOOT, Times, changes, started
from tests.fakes.loops import fresh_loop

from vnic.net.errors import NetError
from vnic.net.journal import Entry, Journal, JournalQuery
from vnic.net.records import VNIC, Cause, Note
from vnic.state.database import Bounds, Database
from vnic.state.history import History

BEFORE, NOW, KEPT = 40, 30, 10
"""Records of earlier starts, of this one, and of these in memory."""


class Rig:
    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path) -> None:
        self.loop = loop
        self.database = Database(path, Bounds(), BOOT)
        times = Times()
        self.write([started(1), *changes(BEFORE - 1, first_id=2, times=times)])
        self.journal = Journal(times.clock, KEPT, first_id=BEFORE + 1)
        self.history = History(loop, self.journal)
        self.history.read_from(path, BOOT, lambda: True)
        self.journal.note("start", "started", "vnic started")
        for number in range(NOW - 1):
            name = "nic1" if number % 3 else "nic0"
            self.write(self.journal.query(JournalQuery(limit=1)))  # the newest is in memory alone
            self.journal.record(name, "nic", "down", Cause("operator", VNIC, f"change {number}"))

    def write(self, entries: list[Entry]) -> None:
        self.database.write(entries, self.database.last_id + 1)

    def ask(self, query: JournalQuery) -> list[Entry]:
        answer = self.history.query(query)
        if isinstance(answer, list):
            return answer
        return self.loop.run_until_complete(asyncio.wait_for(answer, 60))

    def ids(self, query: JournalQuery) -> list[int]:
        return [entry.id for entry in self.ask(query)]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with fresh_loop() as loop:
        made = Rig(loop, tmp_path / "j.db")
        yield made
        made.database.close()


ALL = range(1, BEFORE + NOW + 1)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (JournalQuery(), [*ALL]),
        (JournalQuery(limit=3), [*ALL][-3:]),
        (JournalQuery(limit=25), [*ALL][-25:]),
        (JournalQuery(limit=10, after_id=0), [*ALL][:10]),
        (JournalQuery(limit=10, after_id=55), [*ALL][55:65]),
        (JournalQuery(limit=100, after_id=55), [*ALL][55:]),
        (JournalQuery(after_id=68), [69, 70]),
        (JournalQuery(before_id=30, limit=5), [25, 26, 27, 28, 29]),
        (JournalQuery(name="nic1", before_id=45), [43, 44]),
        (JournalQuery(limit=0), []),
        (JournalQuery(cause="end"), []),
    ],
)
def test_memory_and_database_are_one_journal(rig: Rig, query: JournalQuery, found: list[int]) -> None:
    assert rig.ids(query) == found


def test_what_memory_has_is_answered_at_once(rig: Rig) -> None:
    assert isinstance(rig.history.query(JournalQuery(limit=5)), list)
    assert isinstance(rig.history.query(JournalQuery(after_id=65)), list)
    assert isinstance(rig.history.query(JournalQuery(limit=11)), asyncio.Future)
    rig.ask(JournalQuery())


def test_start_in_memory_tells_what_it_follows(tmp_path: Path) -> None:
    with fresh_loop() as loop:
        rig = Rig(loop, tmp_path / "j.db")
        [start] = rig.ask(JournalQuery(cause="start", after_id=BEFORE))
        assert isinstance(start, Note)
        assert start.details["previous-ended"] is False
        rig.database.close()


def test_database_that_cannot_be_read_leaves_memory(rig: Rig, tmp_path: Path) -> None:
    rig.history.read_from(tmp_path / "missing", BOOT, lambda: True)
    assert rig.ids(JournalQuery()) == [*ALL][-KEPT:]


def test_database_of_another_vnic_is_not_read(rig: Rig, tmp_path: Path) -> None:
    rig.history.read_from(tmp_path / "j.db", BOOT, lambda: False)
    assert rig.ids(JournalQuery()) == [*ALL][-KEPT:]


def test_many_queries_are_answered_in_turn(rig: Rig) -> None:
    answers = [rig.history.query(JournalQuery(limit=20 + number)) for number in range(20)]
    for number, answer in enumerate(answers):
        assert isinstance(answer, asyncio.Future)
        assert len(rig.loop.run_until_complete(answer)) == 20 + number


def test_query_without_sense_is_refused(rig: Rig) -> None:
    with pytest.raises(NetError):
        rig.history.query(JournalQuery(limit=-1))

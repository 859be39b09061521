"""The journal in memory: its records of two kinds, queries, and what guests may write into it."""

from __future__ import annotations

import pytest

from vnic.net.clock import Clock
from vnic.net.errors import NetError
from vnic.net.guest_notes import NOTES_MAX, NOTES_PERIOD_US, GuestNotes
from vnic.net.journal import LIMIT_MAX, Entry, Journal, JournalQuery
from vnic.net.records import VNIC, Cause, LinkChange, Note


class Times:
    """A clock that a test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.clock = Clock(lambda: int(self.now * 1e9), lambda: int(self.now * 1e9))


def filled() -> Journal:
    """Ids 1 to 6, a second apart: a start, then changes of two links by two causes, and a guest."""
    times = Times()
    journal = Journal(times.clock)
    journal.note("start", "started", "vnic started")
    for name, kind in (("nic0", "created"), ("nic1", "created"), ("nic0", "operator")):
        times.now += 1
        journal.record(name, "nic", "down", Cause(kind, VNIC, "a text"))
    times.now += 1
    journal.note("guest", "attached", "a VM attached", name="nic0")
    times.now += 1
    journal.record("nic0", "nic", "up", Cause("operator", VNIC, "a text"), caused_by=4)
    return journal


def ids(entries: list[Entry]) -> list[int]:
    return [entry.id for entry in entries]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (JournalQuery(), [1, 2, 3, 4, 5, 6]),
        (JournalQuery(name="nic0"), [2, 4, 5, 6]),
        (JournalQuery(name="nic0", limit=2), [5, 6]),
        (JournalQuery(name="nic0", limit=2, after_id=1), [2, 4]),
        (JournalQuery(cause="operator"), [4, 6]),
        (JournalQuery(cause="guest"), [5]),
        (JournalQuery(since=1002, until=1004), [3, 4]),
        (JournalQuery(before_id=3), [1, 2]),
        (JournalQuery(changes_only=True), [2, 3, 4, 6]),
        (JournalQuery(limit=0), []),
        (JournalQuery(name="nic9"), []),
    ],
)
def test_query_meets_all_conditions(query: JournalQuery, found: list[int]) -> None:
    assert ids(filled().query(query)) == found


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (JournalQuery(limit=-1), "Parameter 'limit' expects a non-negative integer"),
        (JournalQuery(limit=LIMIT_MAX + 1), f"Parameter 'limit' expects a number up to {LIMIT_MAX}"),
        (JournalQuery(after_id=-1), "Parameter 'after-id' expects a non-negative integer"),
        (JournalQuery(since=float("inf")), "Parameter 'since' expects a finite number"),
    ],
)
def test_query_without_sense_is_refused(query: JournalQuery, text: str) -> None:
    with pytest.raises(NetError) as refused:
        query.check()
    assert refused.value.desc == text


def test_journal_knows_when_memory_has_all() -> None:
    times = Times()
    journal = Journal(times.clock, 3)
    for query in (JournalQuery(), JournalQuery(after_id=0)):
        assert journal.has_all(query, journal.query(query)), "there is nothing"
    for number in range(5):
        journal.note("guest", "attached", "a VM attached", name=f"nic{number}")
    for query, whole in (
        (JournalQuery(), True),
        (JournalQuery(limit=3), True),
        (JournalQuery(limit=4), False),
        (JournalQuery(name="nic0", limit=1), False),
        (JournalQuery(name="nic4", limit=1), True),
        (JournalQuery(after_id=1), False),
        (JournalQuery(after_id=2), True),
    ):
        assert journal.has_all(query, journal.query(query)) is whole, query


def test_link_log_has_changes_only() -> None:
    assert [change.id for change in filled().select("nic0")] == [2, 4, 6]
    assert all(isinstance(change, LinkChange) for change in filled().select())


def test_ids_go_on_from_store() -> None:
    class Store:
        def __init__(self) -> None:
            self.ids: list[int] = []

        def recorded(self, entry: Entry) -> None:
            self.ids.append(entry.id)

        def updated(self, entry: Entry) -> None:
            """No step is set here."""

    journal, store = Journal(Times().clock), Store()
    journal.note("guest", "attached", "a VM attached")
    journal.keep_in(store, 41)
    journal.note("guest", "detached", "the VM detached")
    journal.keep_in(store, 7)
    journal.note("guest", "attached", "a VM attached")
    assert store.ids == [41, 42]
    assert ids(journal.query(JournalQuery())) == [1, 41, 42]


def test_restless_guest_leaves_history_in_place() -> None:
    times = Times()
    journal = Journal(times.clock)
    notes = GuestNotes("nic0", times.clock, journal)
    for _ in range(1000):
        notes.attached(True)
        notes.driver(True)
        notes.driver(False)
        notes.attached(False)
    assert len(journal.query(JournalQuery())) == NOTES_MAX
    times.now += NOTES_PERIOD_US / 1e6
    notes.attached(True)
    last = journal.query(JournalQuery())[-1]
    assert isinstance(last, Note)
    assert last.details == {"left-out": 4000 - NOTES_MAX}
    assert last.text == f"a VM attached ({4000 - NOTES_MAX} records of this guest were left out before)"
    notes.attached(False)
    assert journal.query(JournalQuery())[-1].id == last.id + 1

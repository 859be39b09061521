"""Journals with records, for the tests of what keeps and reads them."""

from __future__ import annotations

from vnic.net.clock import Clock
from vnic.net.journal import Entry, Journal, JournalQuery
from vnic.net.records import VNIC, Cause, Note, NoteKind

BOOT = "11111111-2222-3333-4444-555555555555"
OTHER_BOOT = "99999999-2222-3333-4444-555555555555"
NOON = 1733227200.0


class Times:
    """A clock that a test sets, in seconds since 1970; the monotonic one is at 1000 s at NOON."""

    def __init__(self) -> None:
        self.now = NOON
        self.clock = Clock(lambda: int((self.now - NOON + 1000) * 1e9), lambda: int(self.now * 1e9))


def changes(count: int, *, first_id: int = 1, times: Times | None = None, name: str = "nic0") -> list[Entry]:
    """That many link changes, a second apart, down and up in turns."""
    times = times or Times()
    journal = Journal(times.clock, count, first_id=first_id)
    for number in range(count):
        times.now += 1
        kind = "operator" if number % 2 else "disconnected"
        journal.record(name, "nic", "up" if number % 2 else "down", Cause(kind, VNIC, f"change {number}"))
    return journal.query(JournalQuery())


def note(record_id: int, kind: str, time: float = NOON, name: str | None = None) -> Note:
    """A Note of that kind."""
    return Note(record_id, kind, "event", f"a text of {kind}", time, 1_000_000_000, name=name)


def started(record_id: int, time: float = NOON) -> Note:
    return note(record_id, NoteKind.START, time)

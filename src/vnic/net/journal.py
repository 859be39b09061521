"""The journal: one LinkChange for each change of a client's link, with its cause and its steps, and Notes of the rest.

`link.py` and `report.py` write it, and what else has something to note; `query-link-log`, `query-journal`, `vnic why`
and `vnic log` read it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol, TypeAlias

import msgspec

from vnic.net.client_record import JournalRecord
from vnic.net.clock import Clock
from vnic.net.errors import NetError
from vnic.net.records import VNIC, Cause, ClientType, LinkChange, Note, UpDown

JOURNAL_LENGTH = 4096
"""Records kept in memory; the oldest are dropped first, so that a flapping link does not use up memory."""

LIMIT_MAX = 1 << 16
"""The most records that one query returns; further ones are had by another, with `after_id`."""

Entry: TypeAlias = LinkChange | Note


class JournalStore(Protocol):
    """Keeps the records after this process ends. No method blocks or raises."""

    def recorded(self, entry: Entry) -> None:
        """A new record."""
        ...

    def updated(self, entry: Entry) -> None:
        """A step was added to a record."""
        ...


class JournalQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are wanted: all conditions hold for each. The oldest is returned first."""

    name: str | None = None
    cause: str | None = None
    """The kind of a change's cause, or a Note's kind."""
    since: float | None = None
    """From this wall-clock time on, in seconds."""
    until: float | None = None
    """Before this one."""
    after_id: int | None = None
    before_id: int | None = None
    changes_only: bool = False
    """No Notes."""
    limit: int | None = None
    """With `after_id`, the first so many after it (paging); else the last. None: as many as are kept in memory."""

    def check(self) -> None:
        """Raise NetError for values that make no sense."""
        for key, value in (("limit", self.limit), ("after-id", self.after_id), ("before-id", self.before_id)):
            if value is not None and value < 0:
                raise NetError(f"Parameter '{key}' expects a non-negative integer")
        if self.limit is not None and self.limit > LIMIT_MAX:
            raise NetError(f"Parameter 'limit' expects a number up to {LIMIT_MAX}")
        for key, time in (("since", self.since), ("until", self.until)):
            if time is not None and not math.isfinite(time):
                raise NetError(f"Parameter '{key}' expects a finite number")

    @property
    def from_oldest(self) -> bool:
        """Whether `limit` counts from the oldest on."""
        return self.after_id is not None

    def wants(self, entry: Entry) -> bool:
        """Whether `entry` meets the conditions."""
        return (
            (self.after_id is None or entry.id > self.after_id)
            and (self.name is None or entry.name == self.name)
            and (self.cause is None or cause_of(entry) == self.cause)
            and (self.since is None or entry.time >= self.since)
            and (self.until is None or entry.time < self.until)
            and (self.before_id is None or entry.id < self.before_id)
            and not (self.changes_only and isinstance(entry, Note))
        )


def cause_of(entry: Entry) -> str:
    """What `JournalQuery.cause` is compared with."""
    return entry.kind if isinstance(entry, Note) else entry.cause.kind


class Journal:
    """The last records, oldest first. Ids grow by one and never repeat."""

    def __init__(
        self,
        clock: Clock,
        length: int = JOURNAL_LENGTH,
        *,
        store: JournalStore | None = None,
        first_id: int = 1,
    ) -> None:
        """`first_id` is the id of the next record; an earlier process may have written those before it."""
        self._clock = clock
        self._entries: deque[Entry] = deque(maxlen=length)
        self._store = store
        self._next_id = first_id
        self._kept = memoryview(bytearray(8)).cast("Q")

    def count_in(self, kept: memoryview[int]) -> None:
        """Write the next id there whenever it changes: to memory that outlives this process."""
        self._kept = kept
        self.skip_to(1)

    def keep_in(self, store: JournalStore, first_id: int) -> None:
        """From now on, tell `store` of the records; the next one has the id `first_id`, or a higher one."""
        self._store = store
        self.skip_to(first_id)

    def skip_to(self, next_id: int) -> None:
        """The next record has the id `next_id`, or a higher one."""
        self._next_id = self._kept[0] = max(self._next_id, next_id)

    def record(
        self, name: str, kind: ClientType, link: UpDown, cause: Cause, caused_by: int | None = None
    ) -> LinkChange:
        """Record that the link of `name` is now `link`."""
        change = LinkChange(
            self._next_id,
            name,
            kind,
            link,
            cause,
            self._clock.wall_ns() / 1e9,
            self._clock.monotonic_ns() // 1000,
            caused_by,
        )
        self._add(change)
        return change

    def note(
        self,
        kind: str,
        event: str,
        text: str,
        *,
        name: str | None = None,
        by: str = VNIC,
        caused_by: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> Note:
        """Record something that is not a change of a link; see Note. `details` are JSON values."""
        note = Note(
            self._next_id,
            kind,
            event,
            text,
            self._clock.wall_ns() / 1e9,
            self._clock.monotonic_ns() // 1000,
            by,
            name,
            caused_by,
            details or {},
        )
        self._add(note)
        return note

    def _add(self, entry: Entry) -> None:
        self._next_id = self._kept[0] = self._next_id + 1
        self._entries.append(entry)
        if self._store is not None:
            self._store.recorded(entry)

    def save(self) -> JournalRecord:
        """The next id. The records are not part of it: a JournalStore keeps them."""
        return JournalRecord(next_id=self._next_id)

    def restore(self, record: JournalRecord) -> None:
        """Continue with the saved id, and drop the records that were made while the clients were recreated."""
        self._next_id = self._kept[0] = record.next_id
        self._entries.clear()

    def update(self, change: LinkChange) -> None:
        """A step of `change` was set."""
        if self._store is not None:
            self._store.updated(change)

    def query(self, query: JournalQuery) -> list[Entry]:
        """The records in memory that `query` wants."""
        entries = iter(self._entries) if query.from_oldest else reversed(self._entries)
        found = list(islice((entry for entry in entries if query.wants(entry)), query.limit))
        return found if query.from_oldest else found[::-1]

    @property
    def oldest_id(self) -> int:
        """The id of the oldest record in memory; the next one's, if there is none."""
        return self._entries[0].id if self._entries else self._next_id

    def has_all(self, query: JournalQuery, found: list[Entry]) -> bool:
        """Whether `found`, the result of `query` from memory, lacks nothing of what was ever recorded."""
        oldest = self.oldest_id
        if oldest == 1:
            return True
        if query.from_oldest:
            return query.after_id is not None and query.after_id >= oldest - 1
        return query.limit is None or len(found) == query.limit

    def select(
        self, name: str | None = None, limit: int | None = None, after_id: int | None = None
    ) -> list[LinkChange]:
        """The link changes in memory of `name` (or of all), oldest first.

        With `after_id`, the first `limit` changes after it (paging); without, the last `limit` changes.
        """
        return list(
            changes_of(self.query(JournalQuery(name=name, limit=limit, after_id=after_id, changes_only=True)))
        )


def changes_of(entries: list[Entry]) -> Iterator[LinkChange]:
    """Those of `entries` that are changes of a link."""
    return (entry for entry in entries if isinstance(entry, LinkChange))


def as_entry(entry: Entry) -> dict[str, Any]:
    """The record as the members of query-journal: those of a LinkChange with the kind `link`, or a Note's."""
    members: dict[str, Any] = msgspec.to_builtins(entry)
    return {"kind": "link", **members} if isinstance(entry, LinkChange) else members

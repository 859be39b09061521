"""The journal: one LinkChange for each change of a client's link, with its cause and its steps.

`link.py` writes it, `report.py` adds the steps; `query-link-log` and `vnic why` read it.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from vnic.net.client_record import JournalRecord
from vnic.net.clock import Clock
from vnic.net.records import Cause, ClientType, LinkChange, UpDown

JOURNAL_LENGTH = 4096
"""Records kept in memory; the oldest are dropped first, so that a flapping link does not use up memory."""


class JournalStore(Protocol):
    """Keeps the records after this process ends. No method blocks or raises."""

    def recorded(self, change: LinkChange) -> None:
        """A new record."""
        ...

    def updated(self, change: LinkChange) -> None:
        """A step was added to a record."""
        ...


class Journal:
    """The last changes of all clients, oldest first. Ids grow by one and never repeat."""

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
        self._changes: deque[LinkChange] = deque(maxlen=length)
        self._store = store
        self._next_id = first_id

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
        self._next_id += 1
        self._changes.append(change)
        if self._store is not None:
            self._store.recorded(change)
        return change

    def save(self) -> JournalRecord:
        """The next id. The changes are not part of the record: a JournalStore keeps them."""
        return JournalRecord(next_id=self._next_id)

    def restore(self, record: JournalRecord) -> None:
        """Continue with the saved id, and drop the changes that were recorded while the clients were recreated."""
        self._next_id = record.next_id
        self._changes.clear()

    def update(self, change: LinkChange) -> None:
        """A step of `change` was set."""
        if self._store is not None:
            self._store.updated(change)

    def select(
        self, name: str | None = None, limit: int | None = None, after_id: int | None = None
    ) -> list[LinkChange]:
        """The changes of `name` (or of all), oldest first.

        With `after_id`, the first `limit` changes after it (paging); without, the last `limit` changes.
        """
        found = [
            change
            for change in self._changes
            if (name is None or change.name == name) and (after_id is None or change.id > after_id)
        ]
        if limit is None:
            return found
        if after_id is not None:
            return found[:limit]
        return found[-limit:] if limit else []

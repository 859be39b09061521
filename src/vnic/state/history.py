"""History: a query over all records, those in memory and those in the database, which a thread of its own reads.

QMP's `query-link-log` and `query-journal` ask it. What memory has is answered at once.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from vnic.net.journal import JOURNAL_LENGTH, Entry, Journal, JournalQuery
from vnic.state.place import Unusable
from vnic.state.reader import Reader, is_start
from vnic.threads import thread_beside

log = logging.getLogger(__name__)

IDLE_S: Final = 10.0
"""The thread ends when no query came for so long."""

_Answer = asyncio.Future[list[Entry]]
_Job = tuple[Path, str, JournalQuery, list[Entry], _Answer]


class History:
    """The records of one vnic. Its methods are called from the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, journal: Journal) -> None:
        self._loop = loop
        self._journal = journal
        self._path: Path | None = None
        self._boot = ""
        self._is_ours: Callable[[], bool] = bool
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._reads = False
        """A thread takes jobs; guarded by the lock."""

    def read_from(self, path: Path, boot: str, is_ours: Callable[[], bool]) -> None:
        """From now on, read what memory lacks from the database at `path`, while it `is_ours`: the records of another
        vnic are not for our clients."""
        self._path = path
        self._boot = boot
        self._is_ours = is_ours

    def query(self, query: JournalQuery) -> list[Entry] | _Answer:
        """The records that `query` wants; a future where the database has to be read. Raises NetError."""
        query.check()
        if query.limit is None:
            query = msgspec.structs.replace(query, limit=JOURNAL_LENGTH)
        found = self._journal.query(query)
        if self._path is None or not self._is_ours():
            return found
        if self._journal.has_all(query, found) and not any(map(is_start, found)):
            return found
        answer: _Answer = self._loop.create_future()
        self._jobs.put((self._path, self._boot, self._older(query, found), found, answer))
        if not self._start():
            return found
        return answer

    def _older(self, query: JournalQuery, found: list[Entry]) -> JournalQuery:
        """The same for the records that are no longer in memory; those that are have all their steps."""
        oldest = self._journal.oldest_id
        before = oldest if query.before_id is None else min(query.before_id, oldest)
        assert query.limit is not None, "query has set it"
        limit = query.limit if query.from_oldest else query.limit - len(found)
        return msgspec.structs.replace(query, before_id=before, limit=limit)

    def _start(self) -> bool:
        with self._lock:
            if self._reads:
                return True
            self._reads = True
        try:
            thread_beside("journal-reader", self._work).start()
        except RuntimeError:  # no thread can start now
            with self._lock:
                self._reads = False
            return False
        return True

    # -- in the thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            try:
                path, boot, query, found, answer = self._jobs.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._reads = False
                        return
                continue
            try:
                self._tell(answer, _complete(path, boot, query, found))
            except Unusable as error:  # the writer has said so
                log.debug("journal: %s: %s", path, error)
                self._tell(answer, found)
            except Exception:
                log.exception("journal: a query of %s failed", path)
                self._tell(answer, found)

    def _tell(self, answer: _Answer, entries: list[Entry]) -> None:
        def tell() -> None:
            if not answer.done():
                answer.set_result(entries)

        try:
            self._loop.call_soon_threadsafe(tell)
        except RuntimeError:
            pass  # the loop has ended


def _complete(path: Path, boot: str, query: JournalQuery, found: list[Entry]) -> list[Entry]:
    """`found`, after the older records that `query` wants."""
    with Reader(path, boot, live=True) as reader:
        entries = [*reader.read(query), *reader.explained(found)]
    return entries[: query.limit] if query.from_oldest else entries

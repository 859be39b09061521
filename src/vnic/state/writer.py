"""JournalWriter: the thread that writes the journal's records into its database. `vnic run` has one.

The thread of the links only appends to a queue. Nothing waits for the disk: where the file cannot be used, records stay
in memory, one line says why, and the file is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from vnic.net.journal import Entry
from vnic.sandbox.identity import hold_none_in_this_thread
from vnic.state.database import WAL_BYTES, Bounds, Database, copy_log
from vnic.state.place import Unusable, make_folder
from vnic.threads import thread_beside

log = logging.getLogger(__name__)

FLUSH_S: Final = 0.03
"""How long a record waits for others that are written with it."""
QUEUE_MAX: Final = 1 << 15
"""The most records, and steps of records, that wait for the disk; the oldest are dropped first."""
BATCH_MAX: Final = 512
"""The most that one transaction writes: Python's lock is held while they are encoded, for less than a millisecond."""
RETRY_S: Final = (1.0, 60.0)
"""The first and the longest pause before the file is tried again."""
TRIM_EVERY_S: Final = 60.0
LOG_MAX_BYTES: Final = 16 * WAL_BYTES
"""Where changes come so fast that the thread beside never gets the whole log copied, the writer does it."""

T = TypeVar("T")

_FLUSH, _STOP = "flush", "stop"


class JournalWriter:
    """A JournalStore; its methods are called from the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: Path,
        bounds: Bounds,
        boot: str,
        *,
        make_parent: bool = False,
        overtaken: Callable[[int], None],
    ) -> None:
        """`make_parent`: the folder is vnic's own, and is made. `overtaken` is called in the loop with a higher id for
        the next record, where the file, once it can be used, already has records with the ids of those in memory."""
        self._loop = loop
        self._path = path
        self._bounds = bounds
        self._boot = boot
        self._make_parent = make_parent
        self._overtaken = overtaken
        self._queue: deque[Entry] = deque(maxlen=QUEUE_MAX)
        self._commands: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._woken = False
        self.tries = 0
        """How often the file was opened, or was tried to be."""
        self._opened: asyncio.Future[int | None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._thread = thread_beside("journal", self._work)
        # -- the thread's own
        self._database: Database | None = None
        self._batch: dict[int, Entry] = {}
        self._next_id = 0
        """The id that the next record should have; 0: it is not known yet."""
        self._own_from = 0
        """Records with lower ids are not written: the file has others' under these."""
        self._wrong = ""
        """Why the file cannot be used; "" while it can."""
        self._retry_s = RETRY_S[0]
        self._copying: threading.Thread | None = None
        self._trim_at = 0.0

    # -- in the loop --------------------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Have the file opened, and do not wait for it: the next id is known (`expect`). False: no thread can start."""
        try:
            self._thread.start()
        except RuntimeError as error:
            log.warning("journal: %s: %s; it is kept in memory", self._path, error)
            return False
        return True

    async def start(self, timeout_s: float) -> int | None:
        """Open the file; the id that follows those in it. None: it cannot be used now, or it takes longer."""
        if not self.begin():
            return None
        try:
            return await asyncio.wait_for(asyncio.shield(self._opened), timeout_s)
        except TimeoutError:
            return None

    @property
    def is_open(self) -> bool:
        """Whether the file is ours now, as far as this thread can know."""
        return self._database is not None

    def expect(self, next_id: int) -> None:
        """The id of the first record that comes."""
        self._next_id = next_id

    def recorded(self, entry: Entry) -> None:
        """See JournalStore."""
        self._queue.append(entry)
        if not self._woken:
            # Later in this turn of the loop: a thread that wakes up competes for Python's lock, and guests wait.
            self._woken = True
            self._loop.call_soon(self._commands.put, _FLUSH)

    updated = recorded

    async def close(self, timeout_s: float) -> None:
        """Write what waits, and close the file. A disk that does not answer is not waited for any longer."""
        if not self._thread.is_alive():
            return
        self._commands.put(_STOP)
        try:
            await asyncio.wait_for(asyncio.shield(self._ended), timeout_s)
        except TimeoutError:
            log.error("journal: %s: ending without waiting for the disk", self._path)

    # -- in the thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        hold_none_in_this_thread()
        try:
            self._try(self._open)
            self._tell(self._opened, None if self._database is None else self._database.last_id + 1)
            while self._wait() != _STOP:
                self._round()
            self._round()
            self._close()
        except Exception:
            log.exception("journal: the thread of %s failed", self._path)
        finally:
            self._tell(self._opened, None)
            self._tell(self._ended, None)

    def _tell(self, future: asyncio.Future[T], value: T) -> None:
        def tell() -> None:
            if not future.done():
                future.set_result(value)

        try:
            self._loop.call_soon_threadsafe(tell)
        except RuntimeError:
            pass  # the loop has ended

    def _wait(self) -> str:
        """Until there is something to do: records, the end, a file to try again, old records to delete."""
        pause_s = self._retry_s if self._database is None else max(0.0, self._trim_at - time.monotonic())
        try:
            if self._commands.get(timeout=pause_s) == _STOP:
                return _STOP
            return self._commands.get(timeout=FLUSH_S)
        except queue.Empty:
            return _FLUSH

    def _round(self) -> None:
        if self._database is None:
            self._try(self._open)
        self._woken = False  # before the queue is read: a record that comes now wakes the thread again
        while self._take() and self._try(self._write):
            pass
        if self._database is not None and time.monotonic() >= self._trim_at:
            self._try(self._trim)
        self._copy_log()

    def _try(self, step: Callable[[], None]) -> bool:
        """Run a step that uses the file; whether it succeeded. If not, the file is closed and tried again later."""
        try:
            step()
        except (OSError, sqlite3.Error, Unusable) as error:
            self._failed(_reason(error))
            return False
        return True

    def _failed(self, reason: str) -> None:
        self._close()
        if reason != self._wrong:
            log.warning(
                "journal: %s: %s; it is kept in memory, and the file is tried again", self._path, reason
            )
        self._retry_s = min(RETRY_S[1], self._retry_s * 2) if self._wrong else RETRY_S[0]
        self._wrong = reason

    def _close(self) -> None:
        database, self._database = self._database, None
        if self._copying is not None:
            self._copying.join()
            self._copying = None
        if database is not None:
            try:
                database.close()
            except (OSError, sqlite3.Error) as error:
                log.warning("journal: %s: %s", self._path, _reason(error))

    def _open(self) -> None:
        self.tries += 1
        if self._make_parent:
            make_folder(self._path.parent)
        database = self._database = Database(self._path, self._bounds, self._boot)
        self._trim_at = 0.0
        if database.last_id >= self._next_id > 0:
            self._overtaken_by(database.last_id)

    def _make_again(self) -> Database:
        """The file was removed, or another is in its place: use what the path leads to now."""
        log.warning(
            "journal: %s: the file was removed or replaced; it is opened anew, without what it had",
            self._path,
        )
        self._close()
        self._open()
        assert self._database is not None, "_open raises otherwise"
        return self._database

    def _overtaken_by(self, last_id: int) -> None:
        """The file has others' records under the ids of ours: another vnic wrote it, or it was put back from a copy."""
        log.warning("journal: %s: it has newer records; earlier ones of this vnic stay in memory", self._path)
        self._own_from = self._next_id = last_id + 1
        try:
            self._loop.call_soon_threadsafe(self._overtaken, last_id + 1)
        except RuntimeError:
            pass  # the loop has ended

    def _take(self) -> bool:
        """Move records from the queue to the batch, unless there is no file; whether the batch has any."""
        if self._database is None:
            return False
        try:
            while len(self._batch) < BATCH_MAX:
                entry = self._queue.popleft()
                if entry.id >= self._own_from:
                    self._batch[entry.id] = entry
        except IndexError:
            pass
        return bool(self._batch)

    def _write(self) -> None:
        database = self._database
        assert database is not None, "_take had none"
        if not database.is_in_place():
            database = self._make_again()
        database.write([each for each in self._batch.values() if each.id >= self._own_from], self._next_id)
        self._next_id = max(self._next_id, database.last_id + 1)
        self._batch.clear()
        if self._wrong:
            self._wrong = ""
            log.warning("journal: %s: it is written again", self._path)

    def _trim(self) -> None:
        """Delete old records, some at a time: others are written in between."""
        assert self._database is not None
        if not self._database.trim():
            self._trim_at = time.monotonic() + TRIM_EVERY_S

    def _copy_log(self) -> None:
        """Have a thread beside this one wait for the disk."""
        if self._database is None:
            return
        size = self._database.log_bytes()
        if size > LOG_MAX_BYTES:
            self._try(self._database.checkpoint)
        elif size > WAL_BYTES and (self._copying is None or not self._copying.is_alive()):
            copying = threading.Thread(target=copy_log, args=(self._path,), name="journal-log", daemon=True)
            try:
                copying.start()
            except RuntimeError:
                return  # no thread can start now
            self._copying = copying


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)

"""The journal's database as its one writer has it open: records in, in batches, and the oldest out.

`writer.py` calls it, in its thread. A batch is one statement on one JSON text, so that Python's lock is free while
SQLite works: the thread of the links goes on.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from vnic.net.journal import Entry, cause_of
from vnic.net.records import Note, NoteKind
from vnic.sockets.lock import PathError, PathLock
from vnic.state import schema
from vnic.state.place import Unusable, check_beside, make_file

BUSY_S: Final = 1.0
"""How long to wait for another process's lock on the database: a backup, or a person with sqlite3."""
WAL_BYTES: Final = 4 << 20
"""From this size on, the write-ahead log's contents should be copied into the database (a checkpoint)."""
TRIM_ROWS: Final = 5000
"""The most records that are deleted at a time."""

_WRITE: Final = """
    INSERT INTO records (id, time, stretch, note, name, cause, body)
    SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->6 FROM json_each(?) WHERE true
    ON CONFLICT (id) DO UPDATE SET body = excluded.body
"""
_OLDEST: Final = "SELECT id, CAST(time AS REAL) FROM records ORDER BY id LIMIT ?"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is kept: records beyond either are deleted, the oldest first."""

    max_count: int = 100_000
    max_age_s: float = 90 * 86400.0


class Database:
    """Open and locked until `close`. All methods raise sqlite3.Error."""

    def __init__(self, path: Path, bounds: Bounds, boot: str) -> None:
        """Open the file, and make it if there is none. Raises sqlite3.Error, OSError, or Unusable. `boot` is the id of
        the machine's boot."""
        self.path = path
        self._bounds = bounds
        self._boot = boot
        self._stretch = 0
        self._last_time = 0.0
        self._count: int | None = None
        """Records in the file; None until it matters: a count takes tens of milliseconds."""
        self.last_id = 0
        """The highest id in the file; 0: there is none."""
        with contextlib.ExitStack() as opened:
            try:
                lock = PathLock(str(path), alone=True, use="uses it")
            except PathError as error:
                raise Unusable(str(error)) from None
            opened.callback(lock.release)
            make_file(path)
            self._identity = self._found()
            self._connection = opened.enter_context(
                contextlib.closing(schema.connect(path, "mode=rw", BUSY_S))
            )
            self._open()
            self._opened = opened.pop_all()

    def _open(self) -> None:
        if schema.is_empty(self._connection):
            schema.create(self._connection)
        schema.check(self._connection)
        if self._connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise Unusable("its file system does not allow a write-ahead log")
        # A commit is in the kernel's hands when it returns, and outlives this process. It is on the disk after the next
        # checkpoint: a loss of power may take the last records, and leaves the file sound.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._connection.execute("PRAGMA journal_size_limit = 0")  # the log's size is what it holds
        self.last_id = self._connection.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()[0]
        check_beside(self.path)

    def write(self, entries: Sequence[Entry], next_id: int) -> None:
        """Write new records, and those of which a step was added, in one transaction. `next_id` is the id that the next
        new record should have: those in between were lost, and a Note says so."""
        if not entries:
            return
        entries = sorted(entries, key=lambda entry: entry.id)
        last_id, last_time, stretch = self.last_id, self._last_time, self._stretch
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            rows, new = [], 0
            for entry in entries:
                if entry.id > last_id:
                    if not stretch or entry.time < last_time:
                        stretch = self._begin_stretch(entry)
                    if entry.id > next_id:
                        rows.append(_row(_loss(entry, entry.id - next_id), stretch))
                        new += 1
                    new += 1
                    last_id, last_time, next_id = entry.id, entry.time, entry.id + 1
                rows.append(_row(entry, stretch))
            self._connection.execute(_WRITE, (_encode(rows),))
            self._connection.execute(
                "UPDATE stretches SET last_time = ? WHERE stretch = ?", (last_time, stretch)
            )
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self.last_id, self._last_time, self._stretch = last_id, last_time, stretch
        if self._count is not None:
            self._count += new

    def _begin_stretch(self, entry: Entry) -> int:
        values = (self._boot, entry.id, entry.time, entry.time)
        made = self._connection.execute(
            "INSERT INTO stretches (boot, first_id, first_time, last_time) VALUES (?, ?, ?, ?)", values
        )
        assert made.lastrowid is not None
        return made.lastrowid

    def trim(self) -> bool:
        """Delete some of the oldest records beyond the bounds; whether there are more."""
        if self._count is None:
            self._count = int(self._connection.execute("SELECT count(*) FROM records").fetchone()[0])
        surplus = self._count - self._bounds.max_count
        not_before = time.time() - self._bounds.max_age_s
        oldest = self._connection.execute(_OLDEST, (TRIM_ROWS,)).fetchall()
        gone = 0
        for _, record_time in oldest:
            if gone >= surplus and record_time >= not_before:
                break
            gone += 1
        if not gone:
            return False
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("DELETE FROM records WHERE id <= ?", (oldest[gone - 1][0],))
        self._connection.execute(
            "DELETE FROM stretches WHERE stretch < (SELECT stretch FROM records ORDER BY id LIMIT 1)"
        )
        self._connection.execute("COMMIT")
        self._count -= gone
        return gone == len(oldest)

    def is_in_place(self) -> bool:
        """Whether the path still leads to the open file. Once removed or replaced, nobody can find what is written."""
        return self._found() == self._identity

    def _found(self) -> tuple[int, int] | None:
        try:
            found = os.lstat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def log_bytes(self) -> int:
        """The size of the write-ahead log."""
        try:
            return Path(f"{self.path}-wal").stat().st_size
        except OSError:
            return 0

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the database. It waits for the disk."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Close the file, after a last checkpoint, and unlock it."""
        self._opened.close()


def _loss(entry: Entry, lost: int) -> Note:
    """In place of the records before `entry` that were lost, under the id of the last of them."""
    text = f"{lost} records were not stored: the journal could not be written"
    return Note(
        entry.id - 1, NoteKind.LOST, "lost", text, entry.time, entry.monotonic_us, details={"records": lost}
    )


def _row(entry: Entry, stretch: int) -> tuple[object, ...]:
    """The columns, and the record itself."""
    is_note = isinstance(entry, Note)
    return (entry.id, entry.time, stretch, int(is_note), entry.name, cause_of(entry), entry)


def _encode(rows: list[tuple[object, ...]]) -> str:
    try:
        return msgspec.json.encode(rows).decode()
    except UnicodeEncodeError:  # a text of a peer, or a file name, that is no UTF-8 (PEP 383)
        return msgspec.json.encode(_without_surrogates(msgspec.to_builtins(rows))).decode()


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(each) for each in value]
    return value


def copy_log(path: Path) -> None:
    """A checkpoint by a connection of its own, beside the one that writes, which does not wait for it."""
    try:
        with contextlib.closing(schema.connect(path, "mode=rw", BUSY_S)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error:
        pass  # the writer meets the same error, or copies the log itself when that has grown

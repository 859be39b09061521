"""Reads the journal's database: the records that a JournalQuery wants, with what they need of those around them.

`history.py` calls it in a thread of its own; `vnic log` and `vnic why --at` call it where no vnic runs.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from vnic.net.journal import LIMIT_MAX, Entry, JournalQuery
from vnic.net.records import LinkChange, Note, NoteKind
from vnic.plainfile import check_plain
from vnic.state import schema
from vnic.state.place import Unusable

BUSY_S: Final = 2.0
BODY_MAX: Final = 1 << 20
"""Bytes of one record: its texts are of peers, and each of these is far shorter."""
_ID_MAX: Final = (1 << 63) - 1
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"

T = TypeVar("T", LinkChange, Note)


def boot_id() -> str:
    """The id of the machine's present boot (random(4)); "" where it is not known."""
    try:
        return Path(BOOT_ID).read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Reader:
    """An open journal; a context manager. No method writes."""

    def __init__(self, path: Path, boot: str, *, live: bool = False) -> None:
        """Raises Unusable. `boot` is the id of the present boot: records of others are marked with theirs. `live`: the
        writer is in this process."""
        self._boot = boot
        try:
            check_plain(str(path))
        except FileNotFoundError:
            raise Unusable("there is no such file") from None
        except OSError as error:
            raise Unusable(error.strerror or str(error)) from None
        # Without a write-ahead log no vnic writes. SQLite would make one to read, and could not remove it again.
        mode = "mode=ro" if live or _has_log(path) else "mode=ro&immutable=1"
        try:
            self._connection = schema.connect(path, mode, BUSY_S)
        except sqlite3.Error as error:
            raise Unusable(str(error)) from None
        try:
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, BODY_MAX)
            self._connection.execute("PRAGMA query_only = ON")
            schema.check(self._connection)
        except sqlite3.Error as error:
            self._connection.close()
            raise Unusable(str(error)) from None
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def read(self, query: JournalQuery) -> list[Entry]:
        """The records that `query` wants, LIMIT_MAX at most, the oldest first. Raises Unusable."""
        with _errors():
            self._connection.execute("BEGIN")  # all that follows sees one state
            try:
                return self._read(query)
            finally:
                self._connection.execute("ROLLBACK")

    def _read(self, query: JournalQuery) -> list[Entry]:
        first, end = self._ids(query)
        where = ["id >= ?", "id < ?"]
        values: list[object] = [first, end]
        for column, operator, value in (
            ("name", "=", query.name),
            ("cause", "=", query.cause),
            ("time", ">=", query.since),
            ("time", "<", query.until),
            ("note", "=", 0 if query.changes_only else None),
        ):
            if value is not None:
                where.append(f"{column} {operator} ?")
                values.append(value)
        order = "ASC" if query.from_oldest else "DESC"
        limit = LIMIT_MAX if query.limit is None else query.limit
        rows = self._connection.execute(
            "SELECT id, note, body, boot FROM records LEFT JOIN stretches USING (stretch)"
            f" WHERE {' AND '.join(where)} ORDER BY id {order} LIMIT ?",
            (*values, limit),
        ).fetchall()
        entries = [self._entry(*row) for row in rows]
        return self.explained(entries if query.from_oldest else entries[::-1])

    def _entry(self, record_id: int, is_note: int, body: str, boot: str | None) -> Entry:
        entry: Entry = _decode(Note, record_id, body) if is_note else _decode(LinkChange, record_id, body)
        if boot != self._boot:
            entry.boot_id = str(boot or "unknown")
        return entry

    def explained(self, entries: list[Entry]) -> list[Entry]:
        """The same, where each start of a vnic has in its `details` what it follows: the end of the one before in
        order, or a crash, a kill or a loss of power. Raises Unusable."""
        with _errors():
            return [self._after(entry) if is_start(entry) else entry for entry in entries]

    def _after(self, start: Entry) -> Entry:
        assert isinstance(start, Note), "is_start"
        row = self._connection.execute(
            "SELECT time, note, cause, boot FROM records LEFT JOIN stretches USING (stretch)"
            " WHERE id < ? ORDER BY id DESC LIMIT 1",
            (start.id,),
        ).fetchone()
        if row is None:
            return start
        before, is_note, cause, boot = row
        follows = {
            "previous-ended": bool(is_note) and cause == NoteKind.END,
            "previous-time": float(before),
            "rebooted": boot != (start.boot_id or self._boot),
        }
        return msgspec.structs.replace(start, details={**start.details, **follows})

    # -- times to ids -------------------------------------------------------------------------------------------

    def _ids(self, query: JournalQuery) -> tuple[int, int]:
        """All records that `query` wants have ids from the first up to before the second."""
        first = 0 if query.after_id is None else min(query.after_id, _ID_MAX - 1) + 1
        end = _ID_MAX if query.before_id is None else min(query.before_id, _ID_MAX)
        if query.since is not None:
            first = max(first, self._first_id_from(query.since))
        if query.until is not None:
            end = min(end, self._end_of_ids_before(query.until))
        return first, end

    def _first_id_from(self, time: float) -> int:
        """The first stretch that reaches `time` has the first record from then on."""
        row = self._connection.execute(
            "SELECT stretch, first_id FROM stretches WHERE last_time >= ? ORDER BY stretch LIMIT 1", (time,)
        ).fetchone()
        return _ID_MAX if row is None else self._bisect(row[0], row[1], time)

    def _end_of_ids_before(self, time: float) -> int:
        """The last stretch that begins before `time` has the last record before then."""
        row = self._connection.execute(
            "SELECT stretch, first_id FROM stretches WHERE first_time < ? ORDER BY stretch DESC LIMIT 1",
            (time,),
        ).fetchone()
        return 0 if row is None else self._bisect(row[0], row[1], time)

    def _bisect(self, stretch: int, first: int, time: float) -> int:
        """The lowest id of the stretch from which on its times are not before `time`; that after its last, if none."""
        row = self._connection.execute(
            "SELECT first_id FROM stretches WHERE stretch > ? ORDER BY stretch LIMIT 1", (stretch,)
        ).fetchone()
        end = row[0] if row is not None else self._highest_id() + 1
        low, high = first, max(first, end)
        while low < high:
            middle = (low + high) // 2
            found = self._connection.execute(
                "SELECT id, time FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT 1", (middle, high)
            ).fetchone()
            if found is None or found[1] >= time:
                high = middle
            else:
                low = found[0] + 1
        return low

    def _highest_id(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()[0])


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Unusable for what is wrong with the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise Unusable(str(error)) from None
    except (TypeError, ValueError):  # SQLite keeps any type in any column
        raise Unusable("a record has a time or an id that is no number") from None


def is_start(entry: Entry) -> bool:
    """Whether it says that a vnic started."""
    return isinstance(entry, Note) and entry.kind == NoteKind.START


def read(path: Path, query: JournalQuery, boot: str) -> list[Entry]:
    """Open, read, close. Raises Unusable."""
    with Reader(path, boot) as reader:
        return reader.read(query)


def _has_log(path: Path) -> bool:
    try:
        return Path(f"{path}-wal").stat().st_size > 0
    except OSError:
        return False


def _decode(kind: type[T], record_id: int, body: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError):
        raise Unusable(f"record {record_id} is malformed") from None

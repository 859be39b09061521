"""The journal's database: what is written is read, within bounds; files that are no journal are refused by name."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes.journals import BOOT, NOON, OTHER_BOOT, Times, changes, note, started

from vnic.net.journal import Entry, JournalQuery
from vnic.net.records import Cause, LinkChange, Note
from vnic.state import database, schema
from vnic.state.database import Bounds, Database, copy_log
from vnic.state.place import Unusable
from vnic.state.reader import Reader, read

NO_END = Bounds(1_000_000, 1e12)


@contextlib.contextmanager
def opened(path: Path, bounds: Bounds = NO_END, boot: str = BOOT) -> Iterator[Database]:
    database = Database(path, bounds, boot)
    try:
        yield database
    finally:
        database.close()


def write(path: Path, entries: list[Entry], boot: str = BOOT) -> None:
    with opened(path, boot=boot) as database:
        database.write(entries, database.last_id + 1)


def ids(path: Path, query: JournalQuery | None = None) -> list[int]:
    return [entry.id for entry in read(path, query or JournalQuery(), BOOT)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a journal?.db"


def test_what_is_written_is_read(path: Path) -> None:
    entries: list[Entry] = [*changes(3), note(4, "guest", NOON + 9, "nic0")]
    write(path, entries)
    assert read(path, JournalQuery(), BOOT) == entries
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name], "nothing is left beside a closed one"


def test_steps_are_added_to_written_records(path: Path) -> None:
    [change] = changes(1)
    assert isinstance(change, LinkChange)
    with opened(path) as database:
        database.write([change], 1)
        change.seen_us = 412
        database.write([change], 2)
    assert read(path, JournalQuery(), BOOT) == [change]


def test_ids_go_on_after_restart(path: Path) -> None:
    write(path, changes(5))
    with opened(path) as database:
        assert database.last_id == 5


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (JournalQuery(), [1, 2, 3, 4, 5, 6, 7]),
        (JournalQuery(name="nic0"), [2, 3, 4, 5]),
        (JournalQuery(name="nic0", limit=2), [4, 5]),
        (JournalQuery(name="nic0", limit=2, after_id=2), [3, 4]),
        (JournalQuery(cause="operator"), [3, 5, 7]),
        (JournalQuery(cause="operator", name="nic0", limit=1), [5]),
        (JournalQuery(cause="start"), [1]),
        (JournalQuery(since=NOON + 2, until=NOON + 4), [3, 4]),
        (JournalQuery(since=NOON + 100), []),
        (JournalQuery(until=NOON - 1), []),
        (JournalQuery(before_id=3), [1, 2]),
        (JournalQuery(after_id=1 << 70), []),
        (JournalQuery(before_id=1 << 70, limit=1), [7]),
        (JournalQuery(changes_only=True, limit=6), [2, 3, 4, 5, 6, 7]),
        (JournalQuery(limit=0), []),
    ],
)
def test_query_meets_all_conditions(path: Path, query: JournalQuery, found: list[int]) -> None:
    times = Times()
    first = [started(1), *changes(4, first_id=2, times=times)]
    write(path, [*first, *changes(2, first_id=6, times=times, name="nic1")])
    assert ids(path, query) == found


def test_times_are_found_where_clock_was_set_back(path: Path) -> None:
    times = Times()
    with opened(path) as database:
        for hours in (0, -2, 3, -1):
            times.now = NOON + hours * 3600
            database.write(changes(40, first_id=database.last_id + 1, times=times), database.last_id + 1)
    every = read(path, JournalQuery(), BOOT)
    assert len(every) == 160
    edges = [NOON + hours * 3600 + seconds for hours in (-3, -2, -1, 0, 3) for seconds in (0, 5.5, 40, 90)]
    for since in edges:
        for until in edges:
            wanted = [entry.id for entry in every if since <= entry.time < until]
            assert ids(path, JournalQuery(since=since, until=until)) == wanted


def test_start_tells_what_it_follows(path: Path) -> None:
    write(path, [started(1), *changes(1, first_id=2)])
    write(path, [started(3), note(4, "end", NOON + 60)])
    write(path, [started(5)], OTHER_BOOT)
    first, _, killed, _, after = read(path, JournalQuery(), OTHER_BOOT)
    assert isinstance(first, Note)
    assert isinstance(killed, Note)
    assert isinstance(after, Note)
    assert first.details == {}, "nothing is known of what was before"
    assert killed.details == {"previous-ended": False, "previous-time": NOON + 1, "rebooted": False}
    assert after.details == {"previous-ended": True, "previous-time": NOON + 60, "rebooted": True}
    assert (first.boot_id, killed.boot_id, after.boot_id) == (BOOT, BOOT, None)


def test_count_is_bounded(path: Path) -> None:
    with opened(path, Bounds(10, 1e12)) as database:
        database.write(changes(25), 1)
        assert not database.trim()
        database.write(changes(2, first_id=1000), 1000)
        assert not database.trim()
    assert ids(path) == [*range(18, 26), 1000, 1001]


def test_age_is_bounded(path: Path) -> None:
    times = Times()
    times.now = 1000.0
    write(path, changes(5, times=times))
    with opened(path, Bounds(1000, 3600.0)) as database:
        times.now = 4e9  # the file's clock is not ours
        database.write(changes(2, first_id=6, times=times), 6)
        assert not database.trim()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM stretches").fetchone() == (1,)
    assert ids(path) == [6, 7]


def test_many_old_records_are_deleted_in_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnic.state.database.TRIM_ROWS", 10)
    with opened(path, Bounds(5, 1e12)) as database:
        database.write(changes(32), 1)
        steps = 0
        while database.trim():
            steps += 1
        assert steps == 2
    assert ids(path) == [28, 29, 30, 31, 32]


def test_lost_records_are_told(path: Path) -> None:
    with opened(path) as database:
        database.write(changes(2), 1)
        database.write(changes(1, first_id=10), 3)
    _, _, loss, last = read(path, JournalQuery(), BOOT)
    assert isinstance(loss, Note)
    assert (loss.id, loss.kind, loss.details) == (9, "lost", {"records": 7})
    assert last.id == 10


def test_text_that_is_no_unicode_is_kept_as_far_as_it_goes(path: Path) -> None:
    change = LinkChange(1, "nic0", "nic", "up", Cause("created", "vnic", "a\udcffb\0\n'\""), NOON, 5)
    write(path, [change])
    [found] = read(path, JournalQuery(), BOOT)
    assert isinstance(found, LinkChange)
    assert found.cause.text == "a?b\0\n'\""


def test_failed_write_leaves_file_as_it_was(path: Path) -> None:
    with opened(path) as database:
        database.write(changes(2), 1)
        broken = note(3, "guest")
        broken.time = None  # type: ignore[assignment]  # what no column takes
        with pytest.raises((sqlite3.Error, TypeError)):
            database.write([broken], 3)
        database.write(changes(1, first_id=3), 3)
    assert ids(path) == [1, 2, 3]


def test_log_is_copied_beside_writer(path: Path) -> None:
    with opened(path) as database:
        database.write(changes(3000), 1)
        assert database.log_bytes() > 100_000
        copy_log(path)
        database.write(changes(1, first_id=3001), 3001)
        assert database.log_bytes() < 100_000, "it begins anew"
        database.write(changes(3000, first_id=3002), 3002)
        database.checkpoint()
    copy_log(path.with_name("missing.db"))
    assert len(ids(path)) == 6001
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_reading_needs_no_writer_and_changes_nothing(path: Path) -> None:
    with opened(path) as database:
        database.write(changes(3), 1)
        assert ids(path) == [1, 2, 3], "beside the writer"
        copies = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
    for name, content in copies.items():  # as a killed writer leaves them
        if not name.endswith((".lock", "-shm")):
            (path.parent / name).write_bytes(content)
    assert Path(f"{path}-wal").stat().st_size > 0
    assert ids(path) == [1, 2, 3]


def test_path_has_one_writer(path: Path) -> None:
    with opened(path), pytest.raises(Unusable, match=r"\.lock|uses it"), opened(path):
        pass
    with opened(path):
        pass


# -- files that are no journal ----------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def other_program(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE records (id INTEGER PRIMARY KEY)")
        connection.commit()


def newer(path: Path) -> None:
    write(path, changes(1))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")


def other_tables(path: Path) -> None:
    write(path, changes(1))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END")


def view(path: Path) -> None:
    write(path, changes(1))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE records")
        connection.execute("CREATE VIEW records AS SELECT 1 AS id")


def folder(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


HOSTILE: list[tuple[Callable[[Path], None], str]] = [
    (garbage, "file is not a database"),
    (other_program, "it is a database of another program"),
    (newer, r"a newer vnic wrote it \(format 2; this one knows 1\)"),
    (other_tables, "its tables are not those of a journal"),
    (view, "its tables are not those of a journal"),
    (folder, "it is a folder|unable to open"),
    (fifo, "it is a FIFO|unable to open|not a database"),
]


@pytest.mark.parametrize(("make", "reason"), HOSTILE)
def test_other_file_is_refused_by_name(path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises((Unusable, OSError, sqlite3.Error), match=reason), opened(path):
        pass
    assert not path.is_file() or path.read_bytes() == before, "it is not touched"
    if path.is_file():
        with pytest.raises(Unusable, match=reason):
            Reader(path, BOOT)


@pytest.mark.parametrize(("make", "reason"), [(folder, "it is a folder"), (fifo, "it is a FIFO")])
def test_reader_does_not_wait_for_a_file_of_another_kind(
    path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(path)
    with pytest.raises(Unusable, match=f"{reason}, and has to be a plain file"):
        Reader(path, BOOT)


def test_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(Unusable, match="there is no such file"):
        Reader(path, BOOT)


def test_link_and_files_beside_are_refused(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "j.db"
    target.write_bytes(b"")
    path.symlink_to(target)
    with pytest.raises(OSError, match="symbolic"), opened(path):
        pass
    path.unlink()
    Path(f"{path}-wal").symlink_to(target)
    with pytest.raises(Unusable, match=r"j\.db-wal is no plain file"), opened(path):
        pass


@pytest.mark.parametrize(
    "change",
    [
        "body = 'nonsense'",
        "body = 5",
        "body = '{}'",
        "body = zeroblob(10)",
        "body = zeroblob(5000000)",
        """body = '{"id": 1, "name": "nic0"}'""",
        "note = 7",
        "time = 'noon'",
        "stretch = -1",
    ],
)
def test_malformed_record_is_refused_or_read(path: Path, change: str) -> None:
    write(path, [started(1), *changes(30, first_id=2)])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE records SET {change} WHERE id < 10")
        connection.commit()
    for query in (JournalQuery(), JournalQuery(since=NOON + 5), JournalQuery(name="nic0", limit=1)):
        with contextlib.suppress(Unusable):
            assert all(isinstance(entry, LinkChange | Note) for entry in read(path, query, BOOT))


def test_time_that_is_no_number_stops_neither_reader_nor_writer(path: Path) -> None:
    write(path, [*changes(3), started(4)])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE records SET time = 'noon' WHERE id = 3")
        connection.commit()
    with pytest.raises(Unusable, match="a time or an id that is no number"):
        read(path, JournalQuery(), BOOT)
    with opened(path, Bounds(1, 1e12)) as database:
        assert not database.trim()
    assert ids(path) == [4]


def test_flipped_bytes_are_refused_or_read(path: Path) -> None:
    write(path, [started(1), *changes(300, first_id=2)])
    sound = path.read_bytes()
    for number in range(300):
        broken = bytearray(sound)
        at = (number * 7919) % len(sound)
        broken[at] ^= 1 << number % 8
        path.write_bytes(broken)
        with contextlib.suppress(Unusable, sqlite3.Error):
            for query in (JournalQuery(), JournalQuery(since=NOON + 5), JournalQuery(name="nic0")):
                msgspec.to_builtins(read(path, query, BOOT))
            with opened(path) as database:
                database.write(changes(1, first_id=database.last_id + 1), database.last_id + 1)


def test_files_beside_are_checked_again_when_they_are_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that all may write to, another user can make them between the check and the open."""
    checks: list[bool] = []

    def check(journal: Path) -> None:
        there = os.path.exists(f"{journal}-shm")
        checks.append(there)
        if there:
            raise Unusable("j.db-shm belongs to another user")

    monkeypatch.setattr(database, "check_beside", check)
    with pytest.raises(Unusable, match="another user"):
        Database(path, NO_END, BOOT)
    assert checks == [True]

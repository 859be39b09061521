"""The thread that writes the journal: nothing waits for it, and a file that cannot be used is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.journals import BOOT, changes, note
from tests.fakes.loops import fresh_loop, until

from vnic.net.clock import Clock
from vnic.net.journal import Journal, JournalQuery
from vnic.net.records import LinkChange
from vnic.sockets.lock import PathLock
from vnic.state import schema
from vnic.state.database import Bounds
from vnic.state.place import Unusable
from vnic.state.reader import read
from vnic.state.writer import JournalWriter

PATIENCE_S = 60.0


class Rig:
    """A journal whose records a writer keeps, in a loop of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, bounds: Bounds, boot: str = BOOT) -> None:
        self.loop = loop
        self.path = path
        self.journal = Journal(Clock())
        self.writer = JournalWriter(loop, path, bounds, boot, overtaken=self.journal.skip_to)
        self.next_id = loop.run_until_complete(self.writer.start(PATIENCE_S))

    def begin(self, next_id: int | None = None) -> None:
        """Keep the records from now on; `next_id` where the file's is not known."""
        first = self.next_id or next_id
        assert first is not None
        self.writer.expect(first)
        self.journal.keep_in(self.writer, first)

    def note(self) -> int:
        return self.journal.note("guest", "attached", "a VM attached", name="nic0").id

    def written(self) -> list[int]:
        try:
            return [entry.id for entry in read(self.path, JournalQuery(), BOOT)]
        except Unusable:
            return []

    def close(self) -> None:
        self.loop.run_until_complete(self.writer.close(PATIENCE_S))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with fresh_loop() as made:
        yield made


@pytest.fixture
def rig(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(name: str = "j.db", bounds: Bounds | None = None) -> Rig:
        made.append(Rig(loop, tmp_path / name, bounds or Bounds(1_000_000, 1e12)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(autouse=True)
def _tries_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnic.state.writer.RETRY_S", (0.01, 0.01))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_records_and_steps_are_written(rig: Callable[..., Rig]) -> None:
    one = rig()
    assert one.next_id == 1
    one.begin()
    for entry in changes(2):
        one.writer.recorded(entry)
    assert isinstance(entry, LinkChange)
    until(one.loop, lambda: one.written() == [1, 2])
    entry.seen_us = 7
    one.writer.updated(entry)
    until(one.loop, lambda: read(one.path, JournalQuery(limit=1), BOOT) == [entry])


def test_all_is_written_at_end_and_ids_go_on(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.begin()
    ids = [one.note() for _ in range(2000)]
    one.close()
    assert one.written() == ids
    two = rig()
    assert two.next_id == 2001
    two.begin()
    assert two.note() == 2001


def test_bounds_are_kept(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnic.state.writer.TRIM_EVERY_S", 0.01)
    one = rig(bounds=Bounds(10, 1e12))
    one.begin()
    for _ in range(100):
        one.note()
    until(one.loop, lambda: one.written() == list(range(91, 101)))


def test_missing_folder_is_one_line_and_tried_again(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    one = rig("missing/j.db")
    assert one.next_id is None
    one.begin(1000)
    one.note()
    until(one.loop, lambda: one.writer.tries >= 3)
    assert lines(caplog) == [
        f"journal: {one.path}: No such file or directory; it is kept in memory, and the file is tried again"
    ]
    one.path.parent.mkdir()
    until(one.loop, lambda: one.written() == [1000])
    until(one.loop, lambda: lines(caplog)[1:] == [f"journal: {one.path}: it is written again"])


@pytest.mark.parametrize("replaced", [False, True])
def test_removed_file_is_made_again(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture, replaced: bool
) -> None:
    one = rig()
    one.begin()
    one.note()
    until(one.loop, lambda: one.written() == [1])
    for suffix in ("-wal", "-shm", ".lock", ""):
        Path(f"{one.path}{suffix}").unlink()
    if replaced:
        one.path.touch()
    one.note()
    until(one.loop, lambda: one.written() == [2])
    assert lines(caplog) == [
        f"journal: {one.path}: the file was removed or replaced; it is opened anew, without what it had"
    ]
    one.close()
    assert one.written() == [2]


def test_removed_folder_is_one_line_and_tried_again(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    one = rig("state/j.db")
    one.begin()
    one.note()
    until(one.loop, lambda: one.written() == [1])
    (tmp_path / "state").rename(tmp_path / "away")
    one.note()
    until(one.loop, lambda: one.writer.tries >= 3)
    assert "No such file or directory; it is kept in memory" in lines(caplog)[-1]
    (tmp_path / "state").mkdir()
    until(one.loop, lambda: one.written() == [2])
    until(one.loop, lambda: "it is written again" in lines(caplog)[-1])


def test_full_disk_is_one_line_and_tried_again(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own bound of a file's size gives the error of a full disk."""
    one = rig()
    one.begin()
    one.note()
    until(one.loop, lambda: one.written() == [1])
    really, pages = schema.connect, 10

    def small(path: Path, mode: str, timeout_s: float) -> sqlite3.Connection:
        connection = really(path, mode, timeout_s)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr("vnic.state.schema.connect", small)
    one.close()
    two = rig()
    two.begin()
    noted = [two.note() for _ in range(1500)]
    until(two.loop, lambda: two.writer.tries >= 3)
    [line] = lines(caplog)
    assert "database or disk is full; it is kept in memory, and the file is tried again" in line
    assert len(two.journal.query(JournalQuery())) == 1500, "the links go on"
    pages = 1_000_000
    until(two.loop, lambda: two.written() == [1, *noted])
    until(two.loop, lambda: lines(caplog)[1:] == [f"journal: {two.path}: it is written again"])


def test_records_that_did_not_fit_in_memory_are_told(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vnic.state.writer.QUEUE_MAX", 100)
    one = rig("missing/j.db")
    one.begin(1000)
    for _ in range(500):
        one.note()
    one.path.parent.mkdir()
    until(one.loop, lambda: one.written() != [])
    assert one.written() == list(range(1399, 1500))
    assert read(one.path, JournalQuery(cause="lost"), BOOT)[0].id == 1399


def test_second_vnic_keeps_its_records_in_memory(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    one = rig()
    one.begin()
    one.note()
    two = rig()
    assert two.next_id is None
    two.begin(1 << 40)
    mine = two.note()
    assert "this vnic uses it; it is kept in memory" in lines(caplog)[0]
    one.close()
    until(two.loop, lambda: two.written() == [1, mine])


def test_ids_of_others_are_not_overwritten(rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture) -> None:
    """A file that comes back with more records than were known."""
    one = rig()
    one.begin()
    for _ in range(50):
        one.note()
    one.close()
    lock = PathLock(str(one.path), alone=True)
    two = rig()
    two.begin(10)
    old = two.note()
    lock.release()
    until(two.loop, lambda: "it has newer records" in str(lines(caplog)))
    until(two.loop, lambda: two.note() > 50)
    last = two.note()
    until(two.loop, lambda: two.written()[-1:] == [last])
    assert old == 10
    assert two.written()[:50] == list(range(1, 51))


def test_corrupt_file_is_left_alone(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = tmp_path / "j.db"
    path.write_bytes(b"no database" * 1000)
    one = rig()
    assert one.next_id is None
    one.begin(1)
    one.note()
    until(one.loop, lambda: one.writer.tries >= 3)
    assert lines(caplog) == [
        f"journal: {path}: file is not a database; it is kept in memory, and the file is tried again"
    ]
    assert path.read_bytes() == b"no database" * 1000
    path.unlink()
    until(one.loop, lambda: one.written() == [1])


def test_locked_database_is_waited_for_by_thread_only(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vnic.state.database.BUSY_S", 0.01)
    one = rig()
    one.begin()
    with contextlib.closing(sqlite3.connect(one.path, isolation_level=None)) as person:
        person.execute("BEGIN IMMEDIATE")
        one.note()
        until(one.loop, lambda: one.writer.tries >= 2)
        assert one.written() == []
        person.execute("ROLLBACK")
    until(one.loop, lambda: one.written() == [1])


def test_end_does_not_wait_for_disk(
    loop: asyncio.AbstractEventLoop,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import threading

    answers = threading.Event()
    really = schema.connect

    def slow(path: Path, mode: str, timeout_s: float) -> sqlite3.Connection:
        answers.wait(PATIENCE_S)
        return really(path, mode, timeout_s)

    monkeypatch.setattr("vnic.state.schema.connect", slow)
    writer = JournalWriter(loop, tmp_path / "j.db", Bounds(10, 1e12), BOOT, overtaken=lambda next_id: None)
    assert loop.run_until_complete(writer.start(0.01)) is None
    writer.expect(5)
    writer.recorded(note(5, "guest"))
    loop.run_until_complete(writer.close(0.01))
    assert "ending without waiting for the disk" in lines(caplog)[0]
    answers.set()
    loop.run_until_complete(writer.close(PATIENCE_S))
    assert [entry.id for entry in read(tmp_path / "j.db", JournalQuery(), BOOT)] == [5]


def test_journal_without_a_thread_is_kept_in_memory(
    loop: asyncio.AbstractEventLoop,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more(self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", no_more)
    path = tmp_path / "j.db"
    writer = JournalWriter(loop, path, Bounds(10, 1e12), BOOT, overtaken=lambda next_id: None)
    assert loop.run_until_complete(writer.start(1)) is None
    assert lines(caplog) == [f"journal: {path}: can't start new thread; it is kept in memory"]
    writer.expect(1)
    writer.recorded(note(1, "guest"))
    loop.run_until_complete(writer.close(1))

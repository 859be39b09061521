"""Tests of the log file: it is appended to, made again after it was moved, and never blocks."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from vnic.observe.logfile import LogFile


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("vnic", logging.INFO, __file__, 1, text, (), None)


def test_lines_are_appended_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("from before\n")
    fresh = tmp_path / "fresh"
    for each in (path, fresh):
        file = LogFile(str(each))
        file.emit(record("a line"))
        file.close()
    assert path.read_text() == "from before\na line\n"
    assert fresh.stat().st_mode & 0o777 == 0o600


def test_moved_file_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path))
    file.emit(record("one"))
    path.rename(tmp_path / "log.1")
    file.emit(record("two"))
    file.close()
    assert path.read_text() == "two\n"


def test_bounded_log_keeps_one_old_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path), max_bytes=20)
    for number in range(10):
        file.emit(record(f"line number {number}"))
    file.close()
    assert (tmp_path / "log.old").read_text() == "line number 8\nline number 9\n"
    assert sorted(os.listdir(tmp_path)) in (["log", "log.old"], ["log.old"])


@pytest.mark.timeout(20)
def test_fifo_is_refused_at_start_and_later_gets_no_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    path = tmp_path / "log"
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is a FIFO"):
        LogFile(str(path))
    path.unlink()
    file = LogFile(str(path))
    path.unlink()
    os.mkfifo(path)
    file.emit(record("lost"))
    path.unlink()
    file.emit(record("written"))
    file.close()
    assert path.read_text() == "written\n"

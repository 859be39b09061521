"""Tests of log lines: repeated lines are suppressed and counted, and each output has its format."""

from __future__ import annotations

import logging
import os
import re

import pytest

from vnic.observe import logs
from vnic.observe.logs import (
    ALIKE_MAX,
    ALIKE_S,
    KINDS_MAX,
    Journald,
    OneLine,
    Stamped,
    Throttle,
)


class Log:
    """The lines that a handler would write, by a clock of the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self._throttle = Throttle(lambda: self.now)

    def warn(self, text: str, *values: object) -> None:
        record = logging.LogRecord("vnic", logging.WARNING, __file__, 1, text, values, None)
        if self._throttle.filter(record):
            self.lines.append(OneLine().format(record))


def test_repeated_lines_are_suppressed() -> None:
    log = Log()
    for number in range(1000):
        log.warn("%s: it failed: %s", "nic0", number)
    assert len(log.lines) == ALIKE_MAX
    assert log.lines[0] == "vnic: warning: nic0: it failed: 0"
    assert log.lines[-1] == "vnic: warning: nic0: it failed: 9 (more like it are left out for 10 s)"
    log.now = ALIKE_S
    for number in range(1000):
        log.warn("%s: it failed: %s", "nic0", number)
    assert log.lines[ALIKE_MAX] == "vnic: warning: nic0: it failed: 0 (990 more like it were left out)"
    assert len(log.lines) == 2 * ALIKE_MAX


def test_suppression_is_per_nic_and_kind() -> None:
    log = Log()
    for number in range(1000):
        log.warn("%s: it failed: %s", "nic0", number)
        log.warn("not named: %s", number)
    log.lines.clear()
    log.warn("%s: it failed: %s", "nic1", 1)
    log.warn("netdev %s: it failed: %s", "nic0", 1)
    log.warn("%s: it failed otherwise", "nic0")
    assert len(log.lines) == 3


def test_tracked_kinds_are_bounded() -> None:
    log = Log()
    for number in range(3 * KINDS_MAX):
        log.warn("%s: it failed", f"name{number}")
    assert len(log.lines) == 3 * KINDS_MAX
    assert len(log._throttle._kinds) == KINDS_MAX


def line(formatter: logging.Formatter, level: int, text: str) -> str:
    return formatter.format(logging.LogRecord("vnic", level, __file__, 1, text, (), None))


def test_journal_line_has_priority() -> None:
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    assert [line(Journald(), level, "x")[:9] for level in levels] == [
        "<7>vnic: ",
        "<6>vnic: ",
        "<4>vnic: ",
        "<3>vnic: ",
        "<3>vnic: ",
    ]


def test_each_traceback_line_has_priority() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    text = Journald().format(logging.LogRecord("vnic", logging.ERROR, __file__, 1, "x", (), info))
    assert text.count("\n") > 1
    assert all(each.startswith("<3>") for each in text.split("\n"))


def test_file_line_has_time() -> None:
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} vnic: warning: x", line(Stamped(), logging.WARNING, "x")
    )


def test_journal_is_detected_by_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert logs.under_journald()
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
    assert not logs.under_journald()
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not logs.under_journald()

"""Log lines: many alike are left out, and the others say so."""

from __future__ import annotations

import logging

from vnic.logs import ALIKE_MAX, ALIKE_S, KINDS_MAX, OneLine, Throttle


class Log:
    """What a handler would write, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self._throttle = Throttle(lambda: self.now)

    def warn(self, text: str, *values: object) -> None:
        record = logging.LogRecord("vnic", logging.WARNING, __file__, 1, text, values, None)
        if self._throttle.filter(record):
            self.lines.append(OneLine().format(record))


def test_many_lines_alike_are_left_out_for_a_while() -> None:
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


def test_one_nics_lines_silence_no_other_and_no_other_kind() -> None:
    log = Log()
    for number in range(1000):
        log.warn("%s: it failed: %s", "nic0", number)
        log.warn("not named: %s", number)
    log.lines.clear()
    log.warn("%s: it failed: %s", "nic1", 1)
    log.warn("netdev %s: it failed: %s", "nic0", 1)
    log.warn("%s: it failed otherwise", "nic0")
    assert len(log.lines) == 3


def test_names_without_end_are_forgotten() -> None:
    log = Log()
    for number in range(3 * KINDS_MAX):
        log.warn("%s: it failed", f"name{number}")
    assert len(log.lines) == 3 * KINDS_MAX
    assert len(log._throttle._kinds) == KINDS_MAX

"""Formats the log lines of `vnic run`: on stderr or in a file, one line each, `vnic: nic0: …`, as QEMU does.

`vnic run` calls `set_up` once. VNIC_LOG=debug|info|warning|error sets the level. On a terminal, in the system's journal
and in a log file the default includes guests that connect and disconnect, and links that change.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from vnic.printable import lines

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
ENVIRONMENT = "VNIC_LOG"


ALIKE_MAX = 10
ALIKE_S = 10.0
"""The most lines of one kind about one NIC or netdev in a period: a faulty guest must not fill the disk."""
KINDS_MAX = 512
"""The most kinds of lines that are tracked."""


@dataclass(slots=True)
class _Kind:
    """The lines of one kind since `began`."""

    began: float
    lines: int = 0
    left_out: int = 0


class Throttle(logging.Filter):
    """Suppresses repeated lines, and reports it in the line before and in the next one."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return True  # the debug level shows all lines
        key, now = _key(record), self._now()
        kind = self._kinds.get(key)
        record.note = ""
        if kind is None or now - kind.began >= ALIKE_S:
            if kind is not None and kind.left_out:
                record.note = f" ({kind.left_out} more like it were left out)"
            self._kinds.pop(key, None)
            if len(self._kinds) >= KINDS_MAX:
                del self._kinds[next(iter(self._kinds))]
            kind = self._kinds[key] = _Kind(now)
        kind.lines += 1
        if kind.lines > ALIKE_MAX:
            kind.left_out += 1
            return False
        if kind.lines == ALIKE_MAX:
            record.note = f" (more like it are left out for {ALIKE_S:g} s)"
        return True


def _key(record: logging.LogRecord) -> tuple[str, str]:
    """The key of a kind of line: the text without its values, except for the name at its start."""
    text, values = str(record.msg), record.args
    if isinstance(values, tuple) and values and "%s" in text[:10]:
        return text, str(values[0])
    return text, ""


class OneLine(logging.Formatter):
    """`vnic: warning: text`. Text from a peer cannot start a new line or send control characters to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in record.getMessage())
        line = f"vnic: {level}{text}{getattr(record, 'note', '')}"
        if record.exc_info:  # a bug in vnic: the only case with a traceback, and it is in the log
            line += "\n" + lines(self.formatException(record.exc_info))
        return line


class Stamped(OneLine):
    """A line of a file, with the local time in front."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        return f"{stamp}.{int(record.msecs):03d} {super().format(record)}"


class Journald(OneLine):
    """A line of a systemd service, with its priority in front (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def under_journald() -> bool:
    """Whether stderr is the journal's socket: JOURNAL_STREAM names it by device and inode (systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def set_up(file: logging.Handler | None = None) -> str | None:
    """Send log lines to stderr, or to `file`. Returns the error in VNIC_LOG, if any."""
    journald = file is None and under_journald()
    told = file is not None or journald or sys.stderr.isatty()
    name = os.environ.get(ENVIRONMENT, "info" if told else "warning")
    handler = file or logging.StreamHandler()
    handler.setFormatter(Stamped() if file is not None else Journald() if journald else OneLine())
    handler.addFilter(Throttle())
    logging.basicConfig(level=LEVELS.get(name, logging.WARNING), handlers=[handler], force=True)
    logging.raiseExceptions = False  # a closed stderr must not end the program
    if name not in LEVELS:
        return f"{ENVIRONMENT}={name}: expected one of {', '.join(LEVELS)}"
    return None

"""Log lines of `vnic run`: on stderr, one line each, `vnic: nic0: …`, as QEMU writes its own.

VNIC_LOG=debug|info|warning|error sets how much; a person at a terminal hears of guests that come and go.
"""

from __future__ import annotations

import logging
import os
import sys

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
ENVIRONMENT = "VNIC_LOG"


class OneLine(logging.Formatter):
    """`vnic: warning: text`; what a peer put into the text cannot start a new line or reach the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in record.getMessage())
        line = f"vnic: {level}{text}"
        if record.exc_info:  # a bug of ours: the one case where a traceback is wanted, in the log
            line += "\n" + self.formatException(record.exc_info)
        return line


def set_up() -> str | None:
    """Send log lines to stderr. Returns what is wrong with VNIC_LOG, if anything."""
    name = os.environ.get(ENVIRONMENT, "info" if sys.stderr.isatty() else "warning")
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=LEVELS.get(name, logging.WARNING), handlers=[handler], force=True)
    logging.raiseExceptions = False  # a closed stderr is no reason to end
    if name not in LEVELS:
        return f"{ENVIRONMENT}={name}: expected one of {', '.join(LEVELS)}"
    return None

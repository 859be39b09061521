"""A person at `-monitor`: lines in, text and a prompt out. No line editing: a terminal or socat gives that.

`server.py` makes one for each connection of a readline monitor.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from .hmp_commands import run_line
from .machine import MonitoredMachine, RunState
from .version import version

log = logging.getLogger(__name__)

PROMPT = b"(qemu) "
"""QEMU's: programs that drive a monitor wait for it."""
LINE_MAX_BYTES = 4095
"""READLINE_CMD_BUF_SIZE of QEMU's readline.h; what is typed beyond is dropped."""

_LINE_END = re.compile(rb"\r\n?|\n")


class HmpSession:
    """A readline monitor's client; a Caller of commands."""

    def __init__(self, machine: MonitoredMachine, who: str) -> None:
        self.machine = machine
        self.who = who
        self.negotiated = True
        self.oob = False
        self._line = bytearray()
        self._after_cr = False

    def greeting(self) -> bytes:
        told = version().qemu
        text = f"vnic {told.major}.{told.minor}.{told.micro} monitor - type 'help' for more information\r\n"
        return text.encode() + PROMPT

    def event(self, message: dict[str, object]) -> bytes | None:
        """People are not interrupted by events."""
        return None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what each line that ends in `data` prints, with the next prompt."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]  # the other half of a CRLF
        self._after_cr = data.endswith(b"\r")
        *lines, rest = _LINE_END.split(data)
        for part in lines:
            line = self._take(part)
            self._line.clear()
            yield self._run(line)
            if self.machine.runstate is RunState.SHUTDOWN:
                return
        self._take(rest)

    def _take(self, part: bytes) -> str:
        self._line += part[: LINE_MAX_BYTES - len(self._line)]
        return self._line.decode(errors="replace").replace("\0", "")

    def _run(self, line: str) -> bytes:
        try:
            text = run_line(self, line)
        except OSError as error:  # no descriptors, no memory: the machine's limits, not ours
            text = f"Error: {error.strerror or error}\r\n"
        except Exception as error:  # a bug in one command must not take the monitor away
            log.exception("HMP: %r of %s failed", line, self.who)
            text = f"Error: internal error: {error!r}\r\n"
        prompt = b"" if self.machine.runstate is RunState.SHUTDOWN else PROMPT
        return text.encode(errors="replace") + prompt

"""A person or a program at `-monitor`: what is typed is echoed as QEMU does, then what it prints, and a prompt.

`server.py` makes one for each connection of a readline monitor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

from vnic.monitor.hmp_commands import run_line
from vnic.monitor.interfaces import MonitoredMachine, RunState, finished
from vnic.monitor.passed_fds import Passed
from vnic.monitor.readline import ReadLine
from vnic.monitor.version import version
from vnic.net.errors import NetError

log = logging.getLogger(__name__)

PROMPT = b"(qemu) "
"""QEMU's: programs that drive a monitor wait for it."""
ECHO_PIECE_BYTES = 4096
"""An echo is sent when it is this long, or at its line's end: each byte typed has the whole line shown again, so that a
long line is echoed with the square of its length."""


class HmpSession:
    """A readline monitor's client; a Caller of commands."""

    def __init__(self, machine: MonitoredMachine, who: str, passed: Passed | None = None) -> None:
        self.machine = machine
        self.who = who
        self.negotiated = True
        self.oob = False
        self.passed = passed or Passed()
        self._readline = ReadLine()
        self.waits_for: asyncio.Future[Any] | None = None

    def greeting(self) -> bytes:
        told = version().qemu
        text = f"QEMU {told.major}.{told.minor}.{told.micro} monitor - type 'help' for more information\r\n"
        return text.encode() + PROMPT

    def event(self, message: dict[str, object]) -> bytes | None:
        """People are not interrupted by events."""
        return None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the echo of `data`, and what each line that ends in it prints, with the next prompt."""
        echo = bytearray()
        for byte in data:
            line = self._readline.put(byte, echo)
            if line is not None:
                yield from self._run(line.decode(errors="replace"), bytes(echo))
                echo.clear()
                if self.machine.runstate is RunState.SHUTDOWN:
                    return
            elif len(echo) >= ECHO_PIECE_BYTES:
                yield bytes(echo)
                echo.clear()
        if echo:
            yield bytes(echo)

    def _run(self, line: str, echo: bytes) -> Iterator[bytes]:
        """The echo and what the line prints, in one piece unless that takes its time."""
        try:
            with self.machine.fds.named_by(self.passed.named):
                text = run_line(self, line)
            if isinstance(text, asyncio.Future):
                yield echo
                echo = b""
                self.waits_for = text
                yield b""
                self.waits_for = None
                text = finished(text)
            if not isinstance(text, str):
                yield echo
                echo = b""
                for piece in text:
                    yield piece.encode(errors="replace")
                text = ""
        except NetError as error:
            text = f"Error: {error.desc}\r\n"
        except OSError as error:  # no descriptors, no memory: the machine's limits, not ours
            text = f"Error: {error.strerror or error}\r\n"
        except Exception as error:  # a bug in one command must not take the monitor away
            log.exception("HMP: %r of %s failed", line, self.who)
            text = f"Error: internal error: {error!r}\r\n"
        prompt = b"" if self.machine.runstate is RunState.SHUTDOWN else PROMPT
        yield echo + text.encode(errors="replace") + prompt

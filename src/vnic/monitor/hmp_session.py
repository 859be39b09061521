"""A readline monitor's session: echoes the input as QEMU does, then prints output and a prompt.

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
from vnic.monitor.policy import Policy
from vnic.monitor.readline import ReadLine
from vnic.monitor.version import version
from vnic.net.errors import NetError

log = logging.getLogger(__name__)

PROMPT = b"(qemu) "
"""QEMU's prompt: programs that drive a monitor wait for it."""
ECHO_PIECE_BYTES = 4096
"""An echo is sent at this length, or at the end of its line: each byte redraws the whole line, so that the echo of a
long line grows with the square of its length."""


class HmpSession:
    """A readline monitor's client; a Caller of commands."""

    def __init__(
        self,
        machine: MonitoredMachine,
        who: str,
        passed: Passed | None = None,
        policy: Policy = Policy.FULL,
    ) -> None:
        self.machine = machine
        self.who = who
        self.negotiated = True
        self.oob = False
        self.passed = passed or Passed()
        self.policy = policy
        self._readline = ReadLine()
        self.waits_for: asyncio.Future[Any] | None = None

    def greeting(self) -> bytes:
        told = version().qemu
        text = f"QEMU {told.major}.{told.minor}.{told.micro} monitor - type 'help' for more information\r\n"
        return text.encode() + PROMPT

    def event(self, message: dict[str, object]) -> bytes | None:
        """A readline monitor shows no events."""
        return None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the echo of `data`, and the output of each line that ends in it, with the next prompt."""
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
        """The echo and the output of the line, in one piece unless the command is asynchronous."""
        try:
            text = self.machine.fds.run(self.passed.named, run_line, self, line)
            self.machine.keep.commit()  # what is acknowledged outlives this process
            if isinstance(text, asyncio.Future):
                yield echo
                echo = b""
                self.waits_for = text
                yield b""
                self.waits_for = None
                self.machine.keep.commit()
                text = finished(text)
            if not isinstance(text, str):
                yield echo
                echo = b""
                for piece in text:
                    yield piece.encode(errors="replace")
                text = ""
        except NetError as error:
            text = f"Error: {error.desc}\r\n"
        except OSError as error:  # no descriptors, no memory: limits of the host
            text = f"Error: {error.strerror or error}\r\n"
        except Exception as error:  # a bug in one command must not end the monitor
            log.exception("HMP: %r of %s failed", line, self.who)
            text = f"Error: internal error: {error!r}\r\n"
        prompt = b"" if self.machine.runstate is RunState.SHUTDOWN else PROMPT
        yield echo + text.encode(errors="replace") + prompt

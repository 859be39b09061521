"""A QMP client that outlives its vnic: what was not answered is asked again of the next process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.guests.lab import Qmp

PATIENCE_S = 30.0


class NoAnswer(Exception):
    """No process has answered in time."""


class Monitor:
    """`execute` may carry a command out twice, so all that are used here may be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._qmp: Qmp | None = None

    def close(self) -> None:
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None

    def connect(self) -> Qmp:
        """The connection, made anew if need be. Raises NoAnswer."""
        end = time.monotonic() + PATIENCE_S
        while self._qmp is None:
            try:
                self._qmp = Qmp(self._path)
            except (OSError, EOFError, AssertionError) as error:
                if time.monotonic() > end:
                    raise NoAnswer(f"no monitor in {PATIENCE_S:g} s: {error}") from None
                time.sleep(0.002)
        return self._qmp

    def execute(self, command: str, *, sent: Callable[[], None] | None = None, **arguments: object) -> Any:
        """The reply. `sent` is called once, when the command is on its way. Raises NoAnswer."""
        end = time.monotonic() + PATIENCE_S
        while True:
            qmp = self.connect()
            try:
                qmp.send(command, **arguments)
                if sent is not None:
                    with contextlib.suppress(OSError):
                        sent()
                    sent = None
                return qmp.reply()
            except (OSError, EOFError) as error:
                self.close()
                if time.monotonic() > end:
                    raise NoAnswer(f"{command} was not answered in {PATIENCE_S:g} s: {error}") from None

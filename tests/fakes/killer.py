"""Ends a piece of work before a line of its code, by an exception: what is left is what a SIGKILL there leaves.

Tests that use it run in a child process (`pytest.mark.in_a_child`).
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Killed(BaseException):
    """The process does nothing after this."""


class Killer:
    """Raises Killed before certain lines of some files are run, counted from the first that runs."""

    def __init__(self, files: Collection[str], lines: Sequence[int]) -> None:
        self._files = files
        self._due = list(lines)
        self.lines = 0

    def arm(self, lines: int) -> None:
        """Kill once more, after so many lines from now."""
        self._due = [self.lines + lines]

    def disarm(self) -> None:
        self._due = []

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        if event == "line":
            self.lines += 1
            if self._due and self.lines == self._due[0]:
                self._due.pop(0)
                raise Killed
        return self

    @contextmanager
    def at_work(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)

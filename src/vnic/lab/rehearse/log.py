"""The log of vnic-probe in a guest (program/probe.c says what its lines are), read as it grows. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

PORT: Final = 52428
"""UDP port from and to which probes go."""
HOLE_PROBES: Final = 20
"""So many missing in a row are an outage that is not over; fewer may be those of a lossy line."""


RUN_MAX: Final = 1 << 24
"""Probes that come one after the other, at most; hours of them."""


class Received(NamedTuple):
    """Probes that came one after the other; times are the guest's own, in microseconds."""

    first: int
    last: int
    begin: int
    end: int


class BadLog(Exception):
    """A line is none of vnic-probe's."""


class Unable(BadLog):
    """The program says why it cannot go on."""


class ProbeLog:
    """What one guest sent and received so far."""

    def __init__(self) -> None:
        self._rest = b""
        self.size = 0
        """Bytes read."""
        self.received: list[Received] = []
        self.sent = 0
        self.refused = 0
        """Of those sent, how many the guest's kernel refused, as without a route."""
        self.now = 0
        """The guest's time of its last line."""
        self.progress: list[tuple[int, int]] = []
        """The guest's time, and how many it had sent by then, with each of its lines."""
        self.pauses: list[tuple[int, int]] = []
        """The number of a probe that was sent late, and how late, in microseconds."""

    def feed(self, data: bytes) -> None:
        """The next bytes of the log. BadLog for what vnic-probe does not write."""
        self.size += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            kind, *words = line.split()
            numbers = [int(word) for word in words]
            if kind == b"r":
                self._run(Received(*numbers))
            elif kind == b"s":
                self.sent, self.refused, self.now = numbers
                self.progress.append((self.now, self.sent))
            elif kind == b"p":
                number, late = numbers
                self.pauses.append((number, late))
            elif kind == b"e":
                (error,) = numbers
                raise Unable(f"UDP port {PORT}: {os.strerror(error)}")
            else:
                raise ValueError
        except (ValueError, TypeError, OverflowError):
            raise BadLog(line.decode(errors="replace")) from None

    def _run(self, run: Received) -> None:
        if not 0 <= run.first <= run.last < run.first + RUN_MAX:
            raise ValueError
        before = self.received[-1] if self.received else None
        if before is not None and (before.first, before.begin) == (run.first, run.begin):
            self.received.pop()
        self.received.append(run)

    def numbers(self) -> Iterator[int]:
        """The numbers of all probes that came, in the order in which they did."""
        for run in self.received:
            yield from range(run.first, run.last + 1)

    def is_steady(self, settle_us: int) -> bool:
        """Whether probes came for the last `settle_us` without a hole."""
        if not self.received or self.now - self.received[-1].end > settle_us // 2:
            return False
        begin = self.received[-1].end - settle_us
        after: Received | None = None
        for run in reversed(self.received):
            if after is not None and after.first - run.last > HOLE_PROBES:
                return False
            if run.begin <= begin:
                return True
            after = run
        return False

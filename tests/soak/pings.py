"""What the pinger says (pinger.c): which echo requests were answered, and in which order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_REPLY = re.compile(r"seq=(\d+) time=([\d.]+) ms")
_SUMMARY = re.compile(r"(\d+) packets transmitted")


@dataclass(frozen=True)
class Pings:
    """One run of the pinger."""

    sent: int
    lost: tuple[int, ...]
    """The numbers of requests without an answer."""
    disordered: int
    """Answers that came after that of a later request, or twice."""
    longest_ms: float

    @classmethod
    def of(cls, text: str) -> Pings:
        """From its output. Raises ValueError if it has not ended."""
        summary = _SUMMARY.search(text)
        if summary is None:
            raise ValueError(f"the pinger has not ended: {text[-200:]!r}")
        replies = [(int(number), float(ms)) for number, ms in _REPLY.findall(text)]
        numbers = [number for number, _ in replies]
        disordered = sum(later <= earlier for earlier, later in pairwise(numbers))
        sent = int(summary[1])
        lost = tuple(sorted(set(range(sent)) - set(numbers)))
        return cls(sent, lost, disordered, max((ms for _, ms in replies), default=0.0))

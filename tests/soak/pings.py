"""What the pinger says (pinger.c): which echo requests were answered, and in which order."""

from __future__ import annotations

import re
from collections import Counter
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
    disordered: tuple[int, ...]
    """The numbers of requests whose first answer came after that of a later request."""
    repeated: tuple[int, ...]
    """The numbers of requests that were answered more than once."""
    longest_ms: float

    @classmethod
    def of(cls, text: str) -> Pings:
        """From its output. Raises ValueError if it has not ended."""
        summary = _SUMMARY.search(text)
        if summary is None:
            raise ValueError(f"the pinger has not ended: {text[-200:]!r}")
        replies = [(int(number), float(ms)) for number, ms in _REPLY.findall(text)]
        counts = Counter(number for number, _ in replies)  # in the order of the first answers
        disordered = tuple(later for earlier, later in pairwise(counts) if later < earlier)
        repeated = tuple(sorted(number for number, count in counts.items() if count > 1))
        sent = int(summary[1])
        lost = tuple(sorted(set(range(sent)) - set(counts)))
        return cls(sent, lost, disordered, repeated, max((ms for _, ms in replies), default=0.0))

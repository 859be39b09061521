"""What a guest's ping says: which echo requests were answered, and in which order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

_REPLY = re.compile(r"seq=(\d+) .*time=([\d.]+) ms(.*)")
_SUMMARY = re.compile(r"(\d+) packets transmitted")


@dataclass(frozen=True)
class Pings:
    """One run of ping."""

    sent: int
    lost: tuple[int, ...]
    """The numbers of requests without an answer."""
    disordered: int
    """Answers that came after that of a later request, or twice."""
    longest_ms: float

    @classmethod
    def of(cls, text: str) -> Pings:
        """From busybox's output. Raises ValueError if it has not ended."""
        summary = _SUMMARY.search(text)
        if summary is None:
            raise ValueError(f"ping has not ended: {text[-200:]!r}")
        replies = [(int(seq), float(ms), rest) for seq, ms, rest in _REPLY.findall(text)]
        numbers = [seq for seq, _, rest in replies if "DUP" not in rest]
        twice = sum("DUP" in rest for _, _, rest in replies)
        late = sum(later < earlier for earlier, later in pairwise(numbers))
        sent = int(summary[1])
        lost = tuple(sorted(set(range(sent)) - set(numbers)))
        return cls(sent, lost, twice + late, max((ms for _, ms, _ in replies), default=0.0))

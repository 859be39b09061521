"""Counts link changes by cause, and how long guests took to see them: what a scrape of the metrics cannot ask later.

It is a subscriber of the network's events while there are metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from vnic.net.records import LinkChanged, LinkSeen

BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
"""Upper bounds. A guest on this host sees a change within a millisecond, one that polls within two seconds."""


@dataclass(slots=True)
class Latencies:
    """A histogram."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    """Of each bucket alone; the last is for what took longer."""
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def copy(self) -> Latencies:
        return Latencies(list(self.counts), self.sum_s)


class Tally:
    """By NIC or netdev. One that is deleted is forgotten by `keep_only`."""

    def __init__(self) -> None:
        self.changes: dict[str, Counter[tuple[str, str]]] = {}
        """(cause, up or down): how many."""
        self.latencies: dict[str, Latencies] = {}

    def __len__(self) -> int:
        """The names that are known."""
        return max(len(self.changes), len(self.latencies))

    def heard(self, _event: str, data: object) -> None:
        """Network.subscribe."""
        if isinstance(data, LinkChanged):
            self.changes.setdefault(data.name, Counter())[str(data.cause.kind), data.link] += 1
        elif isinstance(data, LinkSeen):
            self.latencies.setdefault(data.name, Latencies()).add(data.latency_us / 1e6)

    def keep_only(self, names: set[str]) -> None:
        """Forget all but these, so that clients that come and go do not fill the memory."""
        for each in (self.changes, self.latencies):
            for name in each.keys() - names:
                del each[name]

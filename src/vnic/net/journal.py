"""The journal: one LinkChange for every time a client's link went up or down, with its cause and what followed.

`link.py` writes it, the device models fill in the steps (through `Nic.mark_…`), `query-link-log` and `vnic why`
read it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from vnic.net.clock import Clock
from vnic.net.holds import Cause

JOURNAL_LENGTH = 4096
"""Records kept; the oldest are forgotten first, so that a flapping link cannot grow the process."""


@dataclass(slots=True)
class LinkChange:
    """One change of one client's link. Times are monotonic nanoseconds; None: that step has not come."""

    id: int
    name: str
    is_nic: bool
    up: bool
    cause: Cause
    caused_by: int | None
    """The id of the change on the other end of the wire that this one follows from."""
    wall_ns: int
    set_ns: int
    birth: bool = False
    """The state the client was created in; counted as no change and announced to nobody."""
    notified_ns: int | None = None
    interrupt_ns: int | None = None
    seen_ns: int | None = None
    latency_us: int | None = None
    """From the change (or from the guest's arrival, where that came later) to the guest's read."""
    announced: bool = False

    @property
    def link(self) -> str:
        return "up" if self.up else "down"

    def to_dict(self) -> dict[str, object]:
        """The shape of query-link-log's entries and of query-links' `last-change`; steps in µs after the change."""
        entry: dict[str, object] = {
            "id": self.id,
            "name": self.name,
            "type": "nic" if self.is_nic else "netdev",
            "link": self.link,
            "cause": self.cause.to_dict(),
            "time": self.wall_ns / 1e9,
            "monotonic-us": self.set_ns // 1000,
        }
        if self.caused_by is not None:
            entry["caused-by"] = self.caused_by
        steps = (
            ("notified-us", self.notified_ns),
            ("interrupt-us", self.interrupt_ns),
            ("seen-us", self.seen_ns),
        )
        for key, at_ns in steps:
            if at_ns is not None:
                entry[key] = (at_ns - self.set_ns) // 1000
        if self.latency_us is not None:
            entry["seen-latency-us"] = self.latency_us
        return entry


class Journal:
    """The last JOURNAL_LENGTH LinkChanges of all clients, oldest first; ids never repeat."""

    def __init__(self, clock: Clock, length: int = JOURNAL_LENGTH) -> None:
        self._clock = clock
        self._changes: deque[LinkChange] = deque(maxlen=length)
        self._next_id = 1

    def record(
        self,
        name: str,
        is_nic: bool,
        up: bool,
        cause: Cause,
        caused_by: int | None = None,
        birth: bool = False,
    ) -> LinkChange:
        """Write down that the link of `name` is now `up`."""
        change = LinkChange(
            self._next_id,
            name,
            is_nic,
            up,
            cause,
            caused_by,
            self._clock.wall_ns(),
            self._clock.monotonic_ns(),
            birth,
        )
        self._next_id += 1
        self._changes.append(change)
        return change

    def select(
        self, name: str | None = None, limit: int | None = None, after_id: int | None = None
    ) -> list[LinkChange]:
        """The changes of `name` (or of all), oldest first.

        With `after_id`, the first `limit` that came after it (to page on); without, the last `limit`.
        """
        found = [
            change
            for change in self._changes
            if (name is None or change.name == name) and (after_id is None or change.id > after_id)
        ]
        if limit is None:
            return found
        if after_id is not None:
            return found[:limit]
        return found[-limit:] if limit else []

"""What a rehearsal finds, as records: `--json` prints them as they are, `report` and `picture` make the rest of them.

Times of an event are milliseconds after its change; those before it are negative.
"""

from __future__ import annotations

from typing import Literal

import msgspec

EventWord = Literal["down", "up"]
How = Literal["pull", "dead"]


class Found(msgspec.Struct, rename="kebab", omit_defaults=True):
    """Whatever is found: keys in kebab case."""


class Point(Found, kw_only=True):
    """One of the two guests, with the address that probes are sent from and to."""

    node: str
    address: str


class NicSteps(Found, kw_only=True):
    """How a guest learned of the change. Absent: it did not."""

    nic: str
    link: EventWord
    change_ms: float
    """The change of this NIC's link, which may follow from that of the other end."""
    interrupt_ms: float | None = None
    seen_ms: float | None = None
    """The guest's driver read the new status."""


class PathUse(Found, kw_only=True):
    """Probes that took one path one after the other, with their arrival at the far NIC."""

    path: str
    first_ms: float
    last_ms: float
    probes: int


class Direction(Found, kw_only=True):
    """What the event did to the probes of one direction."""

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    converged: bool
    """Probes were delivered again, without a pause, before the time was up."""
    outage_ms: float
    """The longest time from one delivered probe to the next, with some lost or another path between; 0: none."""
    outage_from_ms: float | None = None
    """When the last probe before it came to the far NIC; `outage-to-ms`: the first one after it."""
    outage_to_ms: float | None = None
    old_path: str = ""
    """Empty where no probe was delivered before the change, as after a `down` that did not converge."""
    new_path: str = ""
    """The path at the end; that of before if none else was found; empty where none was delivered any more."""
    last_old_ms: float | None = None
    """The last delivered probe on the old path; absent where the path is the same."""
    first_new_ms: float | None = None
    sent: int
    lost: int
    """Sent, and not delivered to the far guest's socket."""
    reordered: int
    """Delivered after one that was sent later (RFC 4737)."""
    doubled: int
    lost_at: dict[str, int] = {}
    """Where the lost ones were seen last: a link, or the node that sent them."""
    pause_ms: float = 0.0
    """How long the sender stood still within the outage: its guest had no processor, and the outage may be shorter."""
    paths: list[PathUse] = []


class Event(Found, kw_only=True):
    """The link was pulled (`down`) or plugged in again (`up`)."""

    event: EventWord
    time: float
    """Wall-clock seconds of the change."""
    change_id: int
    """Of the journal: `vnic log`."""
    cause: str
    nics: list[NicSteps]
    directions: list[Direction]


class Run(Found, kw_only=True):
    number: int
    events: list[Event]


class Spread(Found, kw_only=True):
    """Of all runs."""

    median: float
    least: float
    most: float


class Summary(Found, kw_only=True):
    """All runs of an event in one direction."""

    event: EventWord
    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    outage_ms: Spread
    lost: Spread
    first_new_ms: Spread | None = None
    interrupt_ms: Spread | None = None
    """The first interrupt of a run."""
    seen_ms: Spread | None = None
    """The last guest that saw it."""


class Rehearsal(Found, kw_only=True):
    lab: str
    fail: list[str]
    how: How
    between: list[Point]
    interval_ms: float
    settle_ms: float
    max_outage_ms: float | None = None
    runs: list[Run]
    summary: list[Summary]
    failures: list[str]
    """What is too long, or did not converge, a line each."""

"""A machine as one scrape of its metrics saw it. `metrics` takes it, and `metric_families` tells it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from vnic.monitor.interfaces import VnicInfo
from vnic.net.records import HoldKind
from vnic.net.traffic import Frames
from vnic.observe.tally import Latencies


class Device(NamedTuple):
    """One NIC or netdev at the time of a scrape."""

    name: str
    type: str
    model: str
    address: str
    up: bool
    operator_up: bool
    operstate: str
    carrier_up_changes: int
    carrier_down_changes: int
    holds: list[tuple[str, HoldKind]]
    """Of the whole wire: whose, and of which kind."""
    guest: tuple[bool, bool, str] | None
    """Of a NIC: attached, driver-ok, seen."""
    path: str
    python: Frames
    wire: Frames
    drops: dict[tuple[str, str], int]
    """By reason and path."""


@dataclass(slots=True)
class Snapshot:
    """What the thread gets: nothing of it changes any more."""

    vnic: VnicInfo
    restarts: dict[str, int]
    devices: list[Device] = field(default_factory=list)
    more: int = 0
    """NICs and netdevs beyond the limit."""
    changes: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    latencies: dict[str, Latencies] = field(default_factory=dict)

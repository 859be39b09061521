"""Records the events of a network by name, and converts records to what a QMP client reads."""

from __future__ import annotations

from typing import Any

import msgspec

from vnic.net.network import Network


def record_events(network: Network) -> list[tuple[str, dict[str, Any]]]:
    """The names and data of all events from now on, in a list that grows."""
    events: list[tuple[str, dict[str, Any]]] = []
    network.subscribe(lambda name, data: events.append((name, msgspec.to_builtins(data))))
    return events


def as_sent(record: object) -> Any:
    """A record as in a reply."""
    return msgspec.to_builtins(record)

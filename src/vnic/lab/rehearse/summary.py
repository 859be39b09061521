"""Medians over the runs of a rehearsal, and what of it is not as it should be. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from vnic.lab.rehearse.records import Direction, Event, EventWord, Rehearsal, Run, Spread, Summary

EVENTS: Final[tuple[EventWord, ...]] = ("down", "up")


def directions(found: Rehearsal) -> list[tuple[Run, Event, Direction]]:
    """All that was measured, in its order."""
    return [(run, event, each) for run in found.runs for event in run.events for each in event.directions]


def summarize(runs: Sequence[Run]) -> list[Summary]:
    """A row for each event and direction."""
    found = []
    for word in EVENTS:
        events = [event for run in runs for event in run.events if event.event == word]
        count = len(events[0].directions) if events else 0
        found += [_summary(word, events, index) for index in range(count)]
    return found


def _summary(word: EventWord, events: Sequence[Event], index: int) -> Summary:
    ways = [event.directions[index] for event in events]
    return Summary(
        event=word,
        source=ways[0].source,
        target=ways[0].target,
        outage_ms=_known(each.outage_ms for each in ways),
        lost=_known(each.lost for each in ways),
        first_new_ms=_spread(each.first_new_ms for each in ways),
        interrupt_ms=_spread(first_interrupt(event) for event in events),
        seen_ms=_spread(last_seen(event) for event in events),
    )


def first_interrupt(event: Event) -> float | None:
    """The first of the event's interrupts."""
    return min((nic.interrupt_ms for nic in event.nics if nic.interrupt_ms is not None), default=None)


def last_seen(event: Event) -> float | None:
    """When the last of the guests saw it."""
    return max((nic.seen_ms for nic in event.nics if nic.seen_ms is not None), default=None)


def _known(values: Iterable[float]) -> Spread:
    known = list(values)
    return Spread(median=median(known), least=min(known), most=max(known))


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return _known(known) if known else None


def failures(runs: Sequence[Run], max_outage_ms: float | None) -> list[str]:
    """What does not converge, or takes longer than it may."""
    return [
        f"run {run.number}, {event.event}: {text}"
        for run in runs
        for event in run.events
        for direction in event.directions
        if (text := failure(direction, max_outage_ms))
    ]


def failure(direction: Direction, max_outage_ms: float | None) -> str:
    """Empty where all is well."""
    way = f"{direction.source} → {direction.target}"
    if not direction.converged:
        return f"{way}: no way around was found, out for {direction.outage_ms:.1f} ms by then"
    if max_outage_ms is not None and direction.outage_ms > max_outage_ms:
        pause = (
            f", of which its sender stood still for {direction.pause_ms:.1f} ms" if direction.pause_ms else ""
        )
        return f"{way}: out for {direction.outage_ms:.1f} ms, more than {max_outage_ms:g} ms{pause}"
    return ""

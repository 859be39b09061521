"""A rehearsal as tables for people, as CSV, and as JUnit's XML. Pure but for the tables, which it prints."""

from __future__ import annotations

import csv
import io
from xml.sax.saxutils import escape, quoteattr

from vnic.cli.show import print_table
from vnic.lab.rehearse.records import Direction, Event, Rehearsal, Run, Spread
from vnic.lab.rehearse.summary import directions, failure, first_interrupt, last_seen

RUNS = (
    *("RUN", "EVENT", "INTERRUPT", "SEEN", "DIRECTION", "OUTAGE", "LAST OLD", "FIRST NEW"),
    *("LOST", "REORDERED", "DOUBLED", "PATH"),
)
SUMMARY = ("EVENT", "DIRECTION", "OUTAGE", "LEAST", "MOST", "FIRST NEW", "INTERRUPT", "SEEN", "LOST")
CSV_COLUMNS = (
    *("run", "event", "time", "change_id", "interrupt_ms", "seen_ms", "from", "to", "converged", "outage_ms"),
    *(
        "outage_from_ms",
        "outage_to_ms",
        "last_old_ms",
        "first_new_ms",
        "sent",
        "lost",
        "reordered",
        "doubled",
    ),
    *("pause_ms", "old_path", "new_path"),
)


def ms(value: float | None) -> str:
    """Milliseconds for a person."""
    if value is None:
        return "-"
    return (
        f"{value:.2f} ms"
        if abs(value) < 10
        else f"{value:.1f} ms"
        if abs(value) < 1000
        else f"{value:.0f} ms"
    )


def progress(run: Run, of: int) -> str:
    """A line on a run that ended."""
    parts = []
    for event in run.events:
        ways = ", ".join(f"{_way(each)} {_outage(each)}" for each in event.directions)
        parts.append(f"{event.event}: {ways}")
    return f"run {run.number} of {of}: {'; '.join(parts)}"


def print_rehearsal(found: Rehearsal) -> None:
    """All runs, then the medians, then what is too long."""
    print_table(RUNS, [_row(run, event, each) for run, event, each in directions(found)], RUNS[-4:-1])
    print()
    print_table(
        SUMMARY,
        [
            (
                each.event,
                f"{each.source} → {each.target}",
                ms(each.outage_ms.median),
                ms(each.outage_ms.least),
                ms(each.outage_ms.most),
                _median(each.first_new_ms),
                _median(each.interrupt_ms),
                _median(each.seen_ms),
                f"{each.lost.median:g}",
            )
            for each in found.summary
        ],
    )


def _way(direction: Direction) -> str:
    return f"{direction.source} → {direction.target}"


def _outage(direction: Direction) -> str:
    return ms(direction.outage_ms) if direction.converged else f"{ms(direction.outage_ms)}, not over"


def _median(spread: Spread | None) -> str:
    return ms(spread.median if spread is not None else None)


def _row(run: Run, event: Event, direction: Direction) -> tuple[str, ...]:
    path = direction.new_path or "-"
    if direction.new_path and direction.old_path == direction.new_path:
        path = f"as before: {path}"
    return (
        str(run.number),
        event.event,
        ms(first_interrupt(event)),
        ms(last_seen(event)),
        _way(direction),
        _outage(direction),
        ms(direction.last_old_ms),
        ms(direction.first_new_ms),
        str(direction.lost),
        str(direction.reordered),
        str(direction.doubled),
        path,
    )


def csv_text(found: Rehearsal) -> str:
    """A line for each run, event and direction."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for run, event, each in directions(found):
        row = (
            *(run.number, event.event, f"{event.time:.6f}", event.change_id),
            *(first_interrupt(event), last_seen(event), each.source, each.target, int(each.converged)),
            *(each.outage_ms, each.outage_from_ms, each.outage_to_ms, each.last_old_ms, each.first_new_ms),
            *(
                each.sent,
                each.lost,
                each.reordered,
                each.doubled,
                each.pause_ms,
                each.old_path,
                each.new_path,
            ),
        )
        writer.writerow(["" if value is None else value for value in row])
    return text.getvalue()


def junit(found: Rehearsal) -> str:
    """A test case for each run, event and direction; its time is the outage."""
    cases, failed, total = [], 0, 0.0
    for run, event, each in directions(found):
        seconds = each.outage_ms / 1000
        total += seconds
        name = quoteattr(f"run {run.number}: {', '.join(found.fail)} {event.event}, {_way(each)}")
        group = quoteattr(f"rehearse.{found.lab}")
        text = failure(each, found.max_outage_ms)
        failed += bool(text)
        body = f"<failure message={quoteattr(text)}>{escape(event.cause)}</failure>" if text else ""
        out = f"<system-out>{escape(_said(event, each))}</system-out>"
        cases.append(
            f'    <testcase classname={group} name={name} time="{seconds:.6f}">{body}{out}</testcase>'
        )
    counts = f'tests="{len(cases)}" failures="{failed}" errors="0" skipped="0" time="{total:.6f}"'
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f"<testsuites {counts}>",
        f"  <testsuite name={quoteattr(f'vnic rehearse {found.lab}')} {counts}>",
        *cases,
        "  </testsuite>",
        "</testsuites>",
    ]
    return "\n".join([*lines, ""])


def _said(event: Event, each: Direction) -> str:
    return (
        f"{event.cause}; interrupt after {ms(first_interrupt(event))}, seen after {ms(last_seen(event))};"
        f" last on the old path {ms(each.last_old_ms)}, first on the new {ms(each.first_new_ms)};"
        f" {each.lost} of {each.sent} lost, {each.reordered} reordered, {each.doubled} doubled;"
        f" path {each.old_path or 'none'}, then {each.new_path or 'none'}"
    )

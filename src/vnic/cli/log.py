"""`vnic log`: the journal, also of a vnic that has ended: link changes, guests, starts and ends, with their causes.

`journal` finds the records; this module writes them for a person, or as JSON or CSV for programs.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from datetime import datetime
from typing import Any

from vnic.cli.ages import moment
from vnic.cli.client import Entry
from vnic.cli.journal import add_journal_options, causes, records
from vnic.cli.show import (
    change_text,
    duration,
    micros,
    print_json,
    print_table,
    style,
    wall_time,
)
from vnic.cli.spelling import did_you_mean
from vnic.net.journal import LIMIT_MAX
from vnic.net.records import CREATED, HoldKind, NoteKind
from vnic.printable import one_line, printable

DEFAULT_LIMIT = 50
CAUSES = (*HoldKind, CREATED, *NoteKind)
"""What `--cause` selects by; records of other versions may have others."""
COLUMNS = ("TIME", "ID", "NAME", "WHAT", "SEEN AFTER", "FOLLOWS", "WHY")
EXPENDABLE = ("SEEN AFTER", "FOLLOWS")
CSV = (
    *("id", "time", "kind", "name", "type", "link", "event", "cause", "by", "text", "caused-by"),
    *("notified-us", "interrupt-us", "seen-us", "boot-id"),
)


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "log",
        help="show what happened to the links, also before the last start",
        description="Show the journal, the oldest record first: link changes with cause and what the guest saw, guests"
        " that came and went, starts and ends of vnic. Where none runs, its file is read.",
        epilog="TIME is 2h (ago), 03:12 (the last that has passed), 'yesterday 03:12' or '2026-11-30 03:12:44', in the"
        " local zone.",
    )
    parser.add_argument("link", metavar="NAME", nargs="?", help="only of this NIC or netdev")
    parser.add_argument("--since", metavar="TIME", type=_moment, help="from then on")
    parser.add_argument("--until", metavar="TIME", type=_moment, help="up to then")
    parser.add_argument(
        "--cause",
        metavar="KIND",
        help="only changes by this kind of hold (operator, disconnected, …) or 'created', or only records of the kind"
        " guest, start, restart, end, impaired or lost",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_count,
        help=f"the last N (default {DEFAULT_LIMIT}; with --since, all, {LIMIT_MAX} at most)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("-j", "--json", action="store_true", help="print the records as query-journal has them")
    form.add_argument("--csv", action="store_true", help="print a table for spreadsheets; times as ISO 8601")
    add_journal_options(parser)
    parser.set_defaults(run=run)


def _moment(text: str) -> float:
    try:
        return moment(text, time.time())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text[:9]) <= LIMIT_MAX or len(text) > 8:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 to {LIMIT_MAX}")
    return int(text)


async def run(args: argparse.Namespace) -> int:
    limit = args.limit or (LIMIT_MAX if args.since is not None else DEFAULT_LIMIT)
    async with records(args) as journal:
        name = args.link and await journal.name_of(args.link)
        found = await journal.query(
            name=name, cause=args.cause, since=args.since, until=args.until, limit=limit
        )
        followed = {} if args.json or args.csv else await causes(journal, found)
    if args.json:
        print_json(found)
    elif args.csv:
        _print_csv(found)
    else:
        by_id = followed | {entry["id"]: entry for entry in found}
        rows = [row(printable(entry), printable(by_id), time.time()) for entry in found]
        if rows:
            print_table(COLUMNS, rows, EXPENDABLE)
        if journal.file is not None:
            print(style(f"from {one_line(str(journal.file))}; no vnic was asked", "dim"), file=sys.stderr)
        if not rows:
            print(f"vnic: nothing is recorded{_that(args)}", file=sys.stderr)
    return 0


def _that(args: argparse.Namespace) -> str:
    if not _selects(args):
        return ""
    if args.cause in (None, *CAUSES):
        return " that meets this"
    return f" that meets --cause {args.cause}{did_you_mean(args.cause, CAUSES)}"


def _selects(args: argparse.Namespace) -> bool:
    return any(each is not None for each in (args.link, args.since, args.until, args.cause))


def row(entry: Entry, by_id: dict[int, Entry], now: float) -> tuple[str, ...]:
    """The cells of one record; `by_id` has those that it may follow from."""
    follows = entry.get("caused-by")
    return (
        wall_time(entry["time"], now),
        f"#{entry['id']}",
        entry.get("name", "vnic"),
        entry["link"] if entry["kind"] == "link" else entry["event"],
        micros(entry["seen-us"]) if "seen-us" in entry else "-",
        "-" if follows is None else " ".join([f"#{follows}", by_id.get(follows, {}).get("name", "")]).strip(),
        what(entry, now),
    )


def what(entry: Entry, now: float) -> str:
    """Why a link changed, or what else happened."""
    if entry["kind"] == "link":
        return change_text(entry["link"], entry["cause"])
    by = entry.get("by", "vnic")
    text = entry["text"] if by in ("vnic", entry.get("name")) else f"{entry['text']} (by {by})"
    return one_line(text + _before(entry, now)) if entry["kind"] == "start" else one_line(text)


def _before(start: Entry, now: float) -> str:
    """What a start of vnic follows."""
    details: Any = start.get("details", {})
    if "previous-time" not in details:
        return ""
    gone = duration(max(0.0, start["time"] - details["previous-time"]))
    booted = ", and the machine was booted since" if details.get("rebooted") else ""
    if details.get("previous-ended"):
        return f"; the one before had ended {gone} before{booted}"
    last = wall_time(details["previous-time"], now)
    return f"; the one before was killed or crashed: its last record is of {last}, {gone} before{booted}"


def _print_csv(found: list[Entry]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(CSV)
    for entry in found:
        cause: Any = entry.get("cause", {})
        flat = {
            **entry,
            **({"by": cause["by"], "text": cause["text"], "cause": cause["kind"]} if cause else {}),
        }
        flat["time"] = iso(entry["time"])
        writer.writerow([_cell(flat.get(column, "")) for column in CSV])
    sys.stdout.flush()


def iso(seconds: float) -> str:
    """The time with its zone; the number where the calendar has none."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="microseconds")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"


def _cell(value: object) -> str:
    """A spreadsheet takes a text that begins so for a formula, and texts are of peers."""
    text = one_line(str(value))
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and isinstance(value, str) else text

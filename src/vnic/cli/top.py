"""`vnic top`: a live table of all links: what passes, and how each was in the last hour.

`main` calls `run`. On a terminal it goes on until q or Ctrl-C, and waits for a vnic that is away; else, and with
--json, it looks as often as `--count` says.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from vnic.cli.client import Entry, Refused, Session, add_instance_options, session
from vnic.cli.link_filter import Filter, parse_filter
from vnic.cli.seen import hold_text
from vnic.cli.show import print_json, print_table
from vnic.cli.top_state import (
    HOUR_S,
    SORTS,
    Row,
    TopState,
    count_text,
    rate_text,
    sparkline,
)
from vnic.net.journal import LIMIT_MAX
from vnic.printable import one_line

if TYPE_CHECKING:
    from vnic.cli.top_screen import Screen

COLUMNS: Final = (
    *("NAME", "LINK", "GUEST SAW", "IN", "OUT", "FRAMES IN", "OUT", "DROPPED", "CHANGES", "LAST HOUR"),
    "HELD BY",
)
EXPENDABLE: Final = ("FRAMES IN", "DROPPED", "CHANGES")
INTERVALS: Final = (0.1, 3600.0)


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "top",
        help="show what passes on all links, live, and their last hour",
        usage="vnic top [FILTER]... [--sort COLUMN] [--interval SECONDS] [--count N] [--json]"
        " [-n INSTANCE | --qmp PATH]",
        description="Show all links, or those that filters choose (`vnic link show -h` lists them): how each is, what"
        " passes, what holds it, and its last hour, in which each character is two minutes: ▁ down, █ up, between"
        " them the part of the time that it was up. IN is what comes from the guest, or from a netdev's far end.",
        epilog="On a terminal: q ends, s sorts by the next column, r turns the order round, arrows and Page keys move.",
    )
    parser.add_argument("words", metavar="FILTER", nargs="*", help="a NAME, `up`, `type nic` and the like")
    parser.add_argument(
        "--sort", metavar="COLUMN", choices=SORTS, default="wire", help=f"one of {', '.join(SORTS)}"
    )
    parser.add_argument(
        "--interval", metavar="SECONDS", type=_interval, default=1.0, help="between two looks (default 1)"
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=_count,
        help="end after N looks (default 1 where the output is no terminal)",
    )
    parser.add_argument("-j", "--json", action="store_true", help="a JSON object for each look, one a line")
    add_instance_options(parser)
    parser.set_defaults(run=run, check=lambda args: _check(parser, args))


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not INTERVALS[0] <= value <= INTERVALS[1]:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds from 0.1 to 3600")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not int(text[:9]) > 0 or len(text) > 9:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1")
    return int(text)


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    try:
        args.filter = parse_filter(args.words)
    except ValueError as error:
        parser.error(str(error))


async def run(args: argparse.Namespace) -> int:
    if args.json or not sys.stdout.isatty():
        async with session(args) as qmp:
            await _print(qmp, args)
        return 0
    from vnic.cli.top_screen import Screen

    with Screen(args.sort) as screen:
        await _live(args, screen)
    return 0


async def look(qmp: Session, state: TopState) -> None:
    """Ask for what there is now."""
    state.tell_links(await qmp.links())
    traffic: list[Entry] = await qmp.execute("query-traffic")
    state.tell_traffic(traffic, time.monotonic())
    if state.last_id == 0:
        wanted: dict[str, Any] = {"since": time.time() - HOUR_S, "limit": LIMIT_MAX}
    else:
        wanted = {"after-id": state.last_id, "limit": LIMIT_MAX}
    state.tell_records(await qmp.execute_with("query-journal", wanted))


def chosen(state: TopState, wanted: Filter, sort: str) -> list[Row]:
    """The rows that the filters choose."""
    return [
        row
        for row in state.rows(time.time(), sort)
        if wanted.meets(row.entry)
        and (wanted.name is None or wanted.name in (row.entry["name"], row.entry.get("peer")))
    ]


async def _print(qmp: Session, args: argparse.Namespace) -> None:
    """A table, or a line of JSON, for each look; rates need the one before the first."""
    if args.filter.name is not None:
        args.filter.name = await qmp.name_of(args.filter.name)
    state = TopState()
    await look(qmp, state)
    for _ in range(args.count or 1):
        await asyncio.sleep(args.interval)
        await look(qmp, state)
        rows = chosen(state, args.filter, args.sort)
        if args.json:
            print_json({"time": time.time(), "links": [as_json(row) for row in rows]})
        else:
            print_table(COLUMNS, [cells(row) for row in rows], EXPENDABLE)


def as_json(row: Row) -> Entry:
    """A TopLink's members; the link itself is passed on as the vnic told it."""
    import msgspec

    rates = {} if row.rates is None else {"rates": msgspec.to_builtins(row.rates)}
    return {"link": row.entry, "hour": row.hour, **rates}


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table; `-` where there is nothing to say."""
    entry, rates = row.entry, row.rates
    holds = "; ".join(hold_text(hold, entry["name"]) for hold in entry["holds"])
    return (
        one_line(entry["name"]),
        entry["link"],
        row.saw,
        *(("-",) * 5 if rates is None else _rate_cells(rates)),
        str(entry["carrier-changes"]),
        sparkline(row.hour),
        one_line(holds) or "-",
    )


def _rate_cells(rates: Any) -> tuple[str, ...]:
    return (
        rate_text(rates.bits_in),
        rate_text(rates.bits_out),
        count_text(rates.frames_in),
        count_text(rates.frames_out),
        count_text(rates.dropped),
    )


def _cells(state: TopState, wanted: Filter, sort: str) -> list[tuple[str, ...]]:
    return [cells(row) for row in chosen(state, wanted, sort)]


async def _live(args: argparse.Namespace, screen: Screen) -> None:
    """Until q: a vnic that is away, or comes only later, is waited for."""
    left, state = args.count, TopState()
    while not screen.ended:
        try:
            async with session(args) as qmp:
                name = args.filter.name and await qmp.name_of(args.filter.name)
                wanted = Filter(name, args.filter.conditions)
                while not screen.ended:
                    await look(qmp, state)
                    screen.show(functools.partial(_cells, state, wanted))
                    if left is not None:
                        left -= 1
                        if left <= 0:
                            return
                    await screen.wait(args.interval)
        except Refused as refused:
            screen.say(one_line(str(refused)))
            state = TopState()
            await screen.wait(args.interval)

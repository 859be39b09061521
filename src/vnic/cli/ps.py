"""`vnic ps`: the running vnics, how old they are and how they fare: QMP's query-vnic of each, side by side.

`main` calls `run` here; `client` finds the sockets."""

from __future__ import annotations

import argparse
import asyncio
import sys

from vnic.cli.client import (
    Entry,
    Refused,
    add_instance_options,
    session_at,
)
from vnic.cli.show import (
    duration,
    micros,
    print_json,
    print_table,
)
from vnic.printable import one_line
from vnic.sockets import rundir

COLUMNS = (
    *("NAME", "PID", "UP", "GUESTS", "LAG P50", "P99", "MAX", "MEMORY", "SHARED", "DESCRIPTORS"),
    *("KEEPER", "RESTARTS", "VERSION"),
)
EXPENDABLE = ("PID", "SHARED", "RESTARTS", "VERSION")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "ps",
        help="show the running vnics and how they fare",
        description="Show every running vnic, or the one that is named: its age, how long its loop let others wait in"
        " the last minute, its guests and what these share with it, its memory, its open descriptors, what starts it"
        " again when it dies, and how often it, vnic-wire or passt was started again. One that does not answer is"
        " named on stderr.",
    )
    parser.add_argument("-j", "--json", action="store_true", help="print query-vnic of each, with its name")
    add_instance_options(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    if args.name is not None or args.qmp is not None:
        found = [await _ask(args.name, args.qmp)]
    else:
        answers = await asyncio.gather(*map(_ask_if_there, await asyncio.to_thread(_socket_paths)))
        found = [entry for entry in answers if isinstance(entry, dict)]
        for text in (each for each in answers if isinstance(each, str)):
            print(f"vnic: {one_line(text)}", file=sys.stderr)
    if args.json:
        print_json(found)
    else:
        print_table(COLUMNS, [row(entry) for entry in found], EXPENDABLE)
    return 0


def _socket_paths() -> list[str]:
    return [str(path) for path in rundir.running().values()]


async def _ask_if_there(path: str) -> Entry | str | None:
    """A text if it is there and does not answer; None if it has ended meanwhile."""
    try:
        return await _ask(None, path)
    except Refused as refused:
        return str(refused) if path in await asyncio.to_thread(_socket_paths) else None


async def _ask(name: str | None, path: str | None) -> Entry:
    async with session_at(name, path) as qmp:
        named = await qmp.execute("query-name")
        return {"name": named.get("name", "vnic"), **await qmp.execute("query-vnic")}


def row(entry: Entry) -> tuple[str, ...]:
    """The cells of one vnic."""
    lag, memory, descriptors = entry["loop-lag"], entry["memory"], entry["descriptors"]
    return (
        entry["name"],
        str(entry["pid"]),
        duration(entry["uptime"]),
        str(len(memory["guests"])),
        *(micros(lag[f"{name}-us"]) for name in ("p50", "p99", "max")),
        _size(memory["rss-bytes"]),
        _size(sum(guest["mapped-bytes"] for guest in memory["guests"])),
        f"{descriptors['open']} of {descriptors['limit']}"
        if "limit" in descriptors
        else str(descriptors["open"]),
        entry.get("keeper", {}).get("kind", "-"),
        str(entry["restarts"]),
        entry["version"],
    )


def _size(count: int) -> str:
    if count < 1 << 20:
        return f"{count >> 10} KiB"
    return f"{count / (1 << 20):.0f} MiB" if count < 10 << 30 else f"{count / (1 << 30):.0f} GiB"

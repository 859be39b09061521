"""`vnic watch`: the events of a running vnic as they come, until Ctrl-C or its end.

Link changes and what the guest saw read as sentences; every other event is shown by its name and data.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from vnic.cli.client import (
    Entry,
    Refused,
    add_instance_options,
    session,
)
from vnic.cli.seen import hold_text
from vnic.cli.show import (
    cause_text,
    change_text,
    link_word,
    micros,
    print_json,
    style,
    wall_time,
)
from vnic.printable import printable


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "watch",
        help="print events as they come",
        description="Print every event as it comes: link changes with their cause, and when the guest saw them.",
    )
    parser.add_argument("-j", "--json", action="store_true", help="one JSON object a line, as QMP sends it")
    add_instance_options(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    ended_well = False
    async with session(args) as qmp:
        while (event := await qmp.next_event()) is not None:
            if args.json:
                print_json(event)
            else:
                print(line(printable(event)), flush=True)
            ended_well = event["event"] == "SHUTDOWN" or ended_well
    if not ended_well:
        raise Refused("vnic went away without a word")
    return 0


def line(event: Entry) -> str:
    """One event for a person."""
    stamp = event.get("timestamp", {})
    seconds = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
    data = event.get("data", {})
    return f"{wall_time(seconds, time.time())}  {_text(event['event'], data)}"


def _text(name: str, data: Entry) -> str:
    if name == "LINK_CHANGED":
        return f"{data['name']} {link_word(data['link'])}  {change_text(data['link'], data['cause'])}"
    if name == "LINK_HOLDS_CHANGED":
        holds = "; ".join(hold_text(hold, data["name"]) for hold in data["holds"])
        return f"{data['name']} {link_word(data['link'])}  held by {holds}"
    if name == "LINK_SEEN":
        return (
            f"{data['name']} {link_word(data['link'])}  the guest saw it after {micros(data['latency-us'])}"
        )
    if name == "LINK_IMPAIRED":
        return f"{data['name']} {style('impaired', 'yellow')}  {cause_text(data)}"
    return f"{name} {json.dumps(data, ensure_ascii=False)}" if data else name


def on_interrupt() -> int:
    """Ctrl-C is the ordinary end of a watch, and no error."""
    sys.stdout.flush()
    return 0

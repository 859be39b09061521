"""`vnic rehearse LAB`: pulls a link of a lab, again and again, and measures how long two of its guests do not hear each
other. `cli.main` calls it; what it needs is imported late.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vnic.cli.client import Refused
from vnic.cli.show import print_json
from vnic.cli.times import milliseconds
from vnic.lab.refusal import EXIT_REFUSED, told
from vnic.printable import lines

if TYPE_CHECKING:
    from vnic.lab.live.place import Place, Record
    from vnic.lab.rehearse.records import Point, Rehearsal, Run
    from vnic.lab.rehearse.run import Wish

REPEAT_MAX = 1000
INTERVAL_MAX_MS = 100


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "rehearse",
        help="pull a link of a lab, and measure how long its guests do not hear each other",
        usage="vnic rehearse LAB --fail NODE[:INTERFACE] --between A[@ADDRESS],B[@ADDRESS] [--how pull|dead]\n"
        "       [--repeat N] [--max-outage TIME] [--interval TIME] [--settle TIME] [--timeout TIME]\n"
        "       [--csv FILE] [--junit FILE] [--svg FILE] [--pcap FOLDER] [--json]",
        description="The convergence stopwatch: probes go between two guests of a lab, in both directions, while a link"
        " is pulled and plugged in again. A lab that does not run is started from its file, and ended afterwards. Exit"
        " code 1: an outage is longer than --max-outage, or no way around was found.",
    )
    parser.add_argument("lab", metavar="LAB", help="a lab file, or the name of a running lab")
    parser.add_argument(
        "--fail",
        metavar="NODE[:INTERFACE]",
        action="append",
        required=True,
        help="the end of the link that fails; without INTERFACE, all of the node's; repeated, all at once",
    )
    parser.add_argument(
        "--between",
        metavar="A,B",
        type=_pair,
        required=True,
        help="the two guests; NODE@ADDRESS chooses the address, by default one of both in the same network",
    )
    parser.add_argument(
        "--how",
        choices=("pull", "dead"),
        default="pull",
        help="pull: the link goes down. dead: it stays up, and all frames are lost (default: %(default)s)",
    )
    parser.add_argument(
        "--repeat", metavar="N", type=_count, default=1, help="how many times (default: %(default)s)"
    )
    parser.add_argument("--max-outage", metavar="TIME", type=milliseconds, help="longer ones are failures")
    parser.add_argument(
        "--interval", metavar="TIME", type=_interval, default=1, help="from probe to probe (default: 1ms)"
    )
    parser.add_argument(
        "--settle",
        metavar="TIME",
        type=milliseconds,
        default=1000,
        help="so long all probes must come for an outage to be over (default: 1s)",
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=milliseconds,
        default=30_000,
        help="an outage that is not over by then is given up (default: 30s)",
    )
    for name, text in (("csv", "a table"), ("junit", "test cases, for CI"), ("svg", "a picture")):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write the results as {text}")
    parser.add_argument("--pcap", metavar="FOLDER", help="keep the captures of all NICs there")
    parser.add_argument("-j", "--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def _pair(text: str) -> tuple[str, str]:
    one, comma, two = text.partition(",")
    if not (one and comma and two) or "," in two:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form A,B")
    return one, two


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= REPEAT_MAX:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 to {REPEAT_MAX}")
    return int(text)


def _interval(text: str) -> int:
    value = milliseconds(text)
    if value > INTERVAL_MAX_MS:
        raise argparse.ArgumentTypeError(f"'{text}' is more than {INTERVAL_MAX_MS}ms")
    return value


def run(args: argparse.Namespace) -> int:
    return told(lambda: _run(args))


def _say(text: str) -> None:
    print(lines(text), file=sys.stderr, flush=True)


def _run(args: argparse.Namespace) -> int:
    from vnic.lab.live.down import take_down
    from vnic.lab.rehearse.run import Wish

    wish = Wish(
        fail=args.fail,
        between=args.between,
        how=args.how,
        repeat=args.repeat,
        interval_us=args.interval * 1000,
        settle_ms=args.settle,
        timeout_ms=args.timeout,
        captures=args.pcap,
    )
    _check_files(args)
    place, started = _lab(args.lab)
    try:
        found = _rehearse(place, wish, args)
    finally:
        if started:
            take_down(place)
    _write(found, args)
    if args.json:
        print_json(msgspec.to_builtins(found))
    for text in found.failures:
        _say(text)
    return EXIT_REFUSED if found.failures else 0


def _check_files(args: argparse.Namespace) -> None:
    """What cannot be written is told before an hour of measuring."""
    for path in (args.csv, args.junit, args.svg):
        folder = os.path.dirname(os.path.abspath(path)) if path is not None else "/"
        if not os.path.isdir(folder):
            raise Refused(f"{folder}: no such folder")


def _lab(which: str) -> tuple[Place, bool]:
    """The running lab that is meant; else the file's is started. Whether it was."""
    from vnic.lab.file.load import load_file
    from vnic.lab.live.place import find, place_of, running
    from vnic.lab.live.up import bring_up

    if which in {place.name for place in running()} or not os.path.exists(which):
        return find(which), False
    lab, notes = load_file(which)
    for note in notes:
        _say(f"{which}:{note}")
    if lab.name in {place.name for place in running()}:
        return find(lab.name), False
    bring_up(lab, os.path.abspath(which), _say)
    return place_of(lab.name), True


def _rehearse(place: Place, wish: Wish, args: argparse.Namespace) -> Rehearsal:
    from vnic.lab.rehearse import summary
    from vnic.lab.rehearse.records import Rehearsal
    from vnic.lab.rehearse.report import print_rehearsal, progress

    record = place.read()
    if record is None or not record.complete:
        raise Refused(
            f"lab '{place.name}' is being started, or that was broken off: `vnic lab down {place.name}`"
        )
    found = Rehearsal(
        lab=place.name,
        fail=wish.fail,
        how=wish.how,
        between=[],
        interval_ms=wish.interval_us / 1000,
        settle_ms=wish.settle_ms,
        max_outage_ms=args.max_outage,
        runs=[],
        summary=[],
        failures=[],
    )

    def tell(each: Run) -> None:
        found.runs.append(each)
        _say(progress(each, wish.repeat))

    found.between = asyncio.run(_interruptible(place, record, wish, tell))
    found.summary = summary.summarize(found.runs)
    found.failures = summary.failures(found.runs, args.max_outage)
    if not args.json:
        print_rehearsal(found)
    return found


async def _interruptible(
    place: Place, record: Record, wish: Wish, tell: Callable[[Run], None]
) -> list[Point]:
    """As Ctrl-C does, SIGTERM ends it, and leaves the lab as it was."""
    from vnic.lab.rehearse.run import rehearse

    task = asyncio.ensure_future(rehearse(place, record, wish, tell, _say))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _write(found: Rehearsal, args: argparse.Namespace) -> None:
    from vnic.lab.rehearse import report
    from vnic.lab.rehearse.picture import svg

    for path, make in ((args.csv, report.csv_text), (args.junit, report.junit), (args.svg, svg)):
        if path is not None:
            Path(path).write_text(make(found))

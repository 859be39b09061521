"""`vnic link impair NAME …`: delay, lose or change the frames of a link, in tc-netem's words; clear that; show it."""

from __future__ import annotations

import argparse
from typing import Final

from vnic.cli.client import Entry, add_instance_options, session
from vnic.cli.show import print_json, print_table

USAGE: Final = (
    "vnic link impair NAME [--tx | --rx] [--delay TIME] [--loss PERCENT] … [--clear] [--json]\n"
    "       vnic link impair [NAME] --show [--json]"
)
OPTIONS: Final = (
    ("delay", "TIME", "each frame arrives later: 10ms"),
    ("jitter", "TIME", "by which the delay varies: 2ms"),
    ("delay-correlation", "PERCENT", "how much a delay depends on the one before"),
    ("distribution", "NAME", "of the jitter: uniform, normal, pareto or paretonormal"),
    ("loss", "PERCENT", "frames that are lost: 0.5%%"),
    ("loss-correlation", "PERCENT", "how much a loss depends on the frame before"),
    ("duplicate", "PERCENT", "frames that come twice"),
    ("duplicate-correlation", "PERCENT", None),
    ("corrupt", "PERCENT", "frames that have a wrong bit"),
    ("corrupt-correlation", "PERCENT", None),
    ("reorder", "PERCENT", "frames that overtake those that are delayed"),
    ("reorder-correlation", "PERCENT", None),
    ("gap", "N", "of N frames, only the last may overtake"),
    ("rate", "RATE", "10mbit"),
    ("limit", "N", "frames that are under way at most, in each direction"),
    ("max-frame", "BYTES", "longer frames are lost; 0: none"),
    ("seed", "N", "the same seed and frames have the same fate"),
)
"""Each with its metavar and its help; None: as the one before."""
NUMBERS: Final = ("gap", "limit", "max-frame", "seed")
COLUMNS: Final = (
    *("ID", "NETDEV", "DIRECTION", "UNDER WAY", "PASSED", "LOST", "DUPLICATED"),
    *("CORRUPTED", "REORDERED", "OVER LIMIT", "TOO LONG", "IMPAIRMENT"),
)
EXPENDABLE: Final = ("NETDEV", "DUPLICATED", "CORRUPTED", "REORDERED", "OVER LIMIT", "TOO LONG")


def add_parser(what: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Enter it beside `vnic link set`."""
    parser = what.add_parser(
        "impair",
        help="delay, lose or change frames",
        usage=USAGE,
        description="Change what is done to the frames of a link, while they pass. What is not given stays as it is;"
        " with --clear all else ends. A time and a rate have a unit.",
    )
    parser.add_argument("link", metavar="NAME", nargs="?", help="a NIC or a netdev, or a NIC's MAC address")
    directions = parser.add_mutually_exclusive_group()
    directions.add_argument(
        "--tx", dest="direction", action="store_const", const="tx", help="only frames to the guest"
    )
    directions.add_argument(
        "--rx", dest="direction", action="store_const", const="rx", help="only frames from the guest"
    )
    for name, metavar, text in OPTIONS:
        number = int if name in NUMBERS else str
        parser.add_argument(f"--{name}", metavar=metavar, type=number, help=text or "the same for it")
    parser.add_argument("--clear", action="store_true", help="end all impairments that are not given")
    parser.add_argument(
        "--show", action="store_true", help="show what is in effect, and what became of the frames"
    )
    parser.add_argument("-j", "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_instance_options(parser, inner=True)
    parser.set_defaults(run=run, check=check, refuse=parser.error)


def given(args: argparse.Namespace) -> Entry:
    """The impairments of the command line, as link-impair takes them."""
    values = {name: getattr(args, name.replace("-", "_")) for name, _, _ in OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def check(args: argparse.Namespace) -> None:
    """End with a usage error unless the words make sense together."""
    if args.show and (args.clear or args.direction or given(args)):
        args.refuse("--show goes with a NAME only")
    if not args.show and args.link is None:
        args.refuse("a NAME is needed, or --show")
    if not args.show and not args.clear and not given(args):
        args.refuse("give an impairment, --clear or --show")


async def run(args: argparse.Namespace) -> int:
    async with session(args) as qmp:
        name = None if args.link is None else await qmp.name_of(args.link)
        if not args.show:
            arguments = {"name": name, "direction": args.direction or "all", "clear": args.clear}
            await qmp.execute_with("link-impair", {**arguments, **given(args)})
        if args.show or args.json:
            found = await qmp.execute_with("query-impairments", {} if name is None else {"name": name})
            if args.json:
                print_json(found)
            else:
                print_table(COLUMNS, [row for each in found for row in rows(each)], EXPENDABLE)
    return 0


def rows(netem: Entry) -> list[tuple[str, ...]]:
    """The cells of one object, a row for each direction."""
    text = (f"{netem['fault']}: " if "fault" in netem else "") + (netem["text"] or "none")
    return [
        (
            netem["id"],
            netem["netdev"],
            each["direction"],
            str(each["waiting"]),
            *(
                str(each["counts"][key])
                for key in (
                    "passed",
                    "lost",
                    "duplicated",
                    "corrupted",
                    "reordered",
                    "over-limit",
                    "too-long",
                )
            ),
            text if netem["on"] else f"off: {text}",
        )
        for each in netem["directions"]
    ]

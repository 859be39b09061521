"""`vnic link fault NAME SHAPE`: have something be wrong with a link; clear that, or show it."""

from __future__ import annotations

import argparse
import re
from typing import Final

from vnic.cli.client import Entry, add_instance_options, session
from vnic.cli.show import duration, print_json, print_table
from vnic.cli.spelling import did_you_mean
from vnic.cli.times import milliseconds
from vnic.printable import one_line

USAGE: Final = (
    "vnic link fault NAME one-way tx|rx | dead | black-hole BYTES | slow-up TIME |\n"
    "                 dampened [half-life=TIME,suppress=N,reuse=N,max=TIME] | clear [SHAPE] | show [--json]\n"
    "       vnic link fault show [--json]"
)
COLUMNS: Final = ("NAME", "SHAPE", "HOLDS", "FOR", "DOWNS", "PENALTY", "WHAT")
EXPENDABLE: Final = ("DOWNS", "PENALTY")
SHAPES: Final = ("one-way", "dead", "black-hole", "slow-up", "dampened")
_KEYS: Final = {"half-life": "half-life-ms", "suppress": "suppress", "reuse": "reuse", "max": "max-ms"}


def add_parser(what: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Enter it beside `vnic link set`."""
    parser = what.add_parser(
        "fault",
        help="have something be wrong with a link",
        usage=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Have something be wrong with a link, until it is cleared or its NIC or netdev is deleted:\n"
        "  one-way tx|rx     frames in that direction are lost: tx those to the guest, rx those from it\n"
        "  dead              it is up, and all frames are lost\n"
        "  black-hole BYTES  longer frames are lost\n"
        "  slow-up TIME      it comes up that much later\n"
        "  dampened          it is held down after too many flaps, as by routers: each adds 1000 to a penalty, half\n"
        "                    of which is gone after each half-life (5s); above `suppress` (2000) the link is held\n"
        "                    until it is below `reuse` (1000), or for `max` (20s)\n"
        "A new one-way, dead or black-hole replaces the one before.",
    )
    parser.add_argument("link", metavar="NAME", help="a NIC or a netdev, or a NIC's MAC address")
    parser.add_argument(
        "words", metavar="SHAPE", nargs="*", help="the shape and its value, `clear` or `show`"
    )
    parser.add_argument("-j", "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_instance_options(parser, inner=True)
    parser.set_defaults(run=run, check=check, refuse=parser.error)


def check(args: argparse.Namespace) -> None:
    """Set `target`, and `arguments`, those of link-fault or None to show; end with a usage error for other words."""
    args.target, args.arguments = args.link, None
    if args.link == "show" and not args.words:
        args.target = None
        return
    what, *rest = args.words or ("",)
    if what == "show" and not rest:
        return
    if what == "clear" and len(rest) <= 1:
        if rest and rest[0] not in SHAPES:
            args.refuse(f"'{rest[0]}' is none of {', '.join(SHAPES)}{did_you_mean(rest[0], SHAPES)}")
        args.arguments = {"clear": True, **({"shape": rest[0]} if rest else {})}
        return
    if what not in SHAPES:
        meant = did_you_mean(what, (*SHAPES, "clear", "show"))
        args.refuse(f"give one of {', '.join(SHAPES)}, clear and show{meant}")
    try:
        args.arguments = {"shape": what, **_values(what, rest)}
    except (argparse.ArgumentTypeError, ValueError) as error:
        args.refuse(str(error))


def _values(shape: str, rest: list[str]) -> Entry:
    """What belongs to a shape. ValueError, with a text, for something else."""
    if shape == "dampened":
        return _dampening(",".join(rest))
    if len(rest) != (0 if shape == "dead" else 1):
        wanted = {"one-way": "tx or rx", "black-hole": "BYTES", "slow-up": "TIME", "dead": "nothing"}[shape]
        raise ValueError(f"'{shape}' takes {wanted} after it")
    if shape == "one-way":
        if rest[0] not in ("tx", "rx"):
            raise ValueError(f"'{rest[0]}' is neither tx nor rx")
        return {"direction": rest[0]}
    if shape == "black-hole":
        return {"bytes": _number(rest[0])}
    return {"delay-ms": milliseconds(rest[0])} if shape == "slow-up" else {}


def _dampening(text: str) -> Entry:
    found: Entry = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        if not equals or key not in _KEYS:
            raise ValueError(
                f"'{part}' is none of half-life=TIME, suppress=N, reuse=N and max=TIME{did_you_mean(key, _KEYS)}"
            )
        found[_KEYS[key]] = milliseconds(value) if key in ("half-life", "max") else _number(value)
    return found


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text):
        raise ValueError(f"'{text}' is no number")
    return int(text)


async def run(args: argparse.Namespace) -> int:
    async with session(args) as qmp:
        name = None if args.target is None else await qmp.name_of(args.target)
        if args.arguments is not None:
            await qmp.execute_with("link-fault", {"name": name, **args.arguments})
        if args.arguments is None or args.json:
            found = await qmp.execute_with("query-faults", {} if name is None else {"name": name})
            if args.json:
                print_json(found)
            else:
                print_table(COLUMNS, [row(each) for each in found], EXPENDABLE)
    return 0


def row(fault: Entry) -> tuple[str, ...]:
    """The cells of one fault."""
    left = duration(fault["left-ms"] / 1000) if "left-ms" in fault else "-"
    by = f" (by {fault['by']})" if "by" in fault else ""
    return (
        fault["name"],
        fault["shape"],
        "yes" if fault.get("holds") else "no",
        left,
        str(fault.get("downs", "-")),
        str(fault.get("penalty", "-")),
        one_line(fault["text"] + by),
    )

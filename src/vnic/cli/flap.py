"""`vnic flap`: have a link go down and up by a schedule that vnic itself keeps; list such schedules, and stop one."""

from __future__ import annotations

import argparse
import sys

from vnic.cli.client import Entry, add_instance_options, session
from vnic.cli.show import duration, print_json, print_table
from vnic.cli.times import milliseconds
from vnic.printable import one_line

COLUMNS = ("ID", "NAME", "DOWN", "UP", "JITTER", "SEED", "DOWNS", "NEXT IN", "BY")
EXPENDABLE = ("JITTER", "SEED")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "flap",
        help="have a link go down and up by a schedule",
        usage="vnic flap NAME --down TIME --up TIME [--count N] [--jitter PERCENT] [--seed S] [--json]"
        " [-n INSTANCE | --qmp PATH]\n"
        "       vnic flap --list | --stop ID [--json] [-n INSTANCE | --qmp PATH]",
        description="Put the link of a NIC or a netdev down and up, again and again, as set_link does. vnic keeps the"
        " schedule, also when this command has ended; the link is up at the end. `vnic link set NAME` ends it, too.",
    )
    parser.add_argument("link", metavar="NAME", nargs="?", help="a NIC or a netdev, or a NIC's MAC address")
    parser.add_argument(
        "--down", metavar="TIME", type=milliseconds, help="how long it is down: 200ms, 2s, 1m"
    )
    parser.add_argument("--up", metavar="TIME", type=milliseconds, help="how long it is up")
    parser.add_argument(
        "--count", metavar="N", type=int, help="how often it goes down (default: until stopped)"
    )
    parser.add_argument(
        "--jitter",
        metavar="PERCENT",
        type=_percent,
        help="make each time shorter or longer by up to this part",
    )
    parser.add_argument(
        "--seed", metavar="S", type=int, help="the same seed gives the same times with --jitter"
    )
    parser.add_argument("--list", action="store_true", help="show what flaps now")
    parser.add_argument("--stop", metavar="ID", help="end a flap; its link is up then")
    parser.add_argument("-j", "--json", action="store_true", help="print JSON")
    add_instance_options(parser)
    parser.set_defaults(run=run, check=check, refuse=parser.error)


def _percent(text: str) -> int:
    number = text.removesuffix("%")
    if not number.isdecimal() or int(number) > 100:
        raise argparse.ArgumentTypeError(f"'{text}' is no percentage from 0% to 100%")
    return int(number)


def check(args: argparse.Namespace) -> None:
    """End with a usage error unless exactly one of the three things is asked for, with what it needs."""
    schedule = [args.down, args.up, args.count, args.jitter, args.seed]
    given = sum((args.link is not None, args.list, args.stop is not None))
    if given != 1:
        args.refuse("give one of NAME, --list and --stop ID")
    if args.link is None and any(each is not None for each in schedule):
        args.refuse("--down, --up, --count, --jitter and --seed go with a NAME")
    if args.link is not None and (args.down is None or (args.up is None and args.count != 1)):
        args.refuse("a NAME needs --down TIME and --up TIME")


async def run(args: argparse.Namespace) -> int:
    async with session(args) as qmp:
        if args.list:
            flaps = await qmp.execute("query-flaps")
            if args.json:
                print_json(flaps)
            else:
                print_table(COLUMNS, [row(flap) for flap in flaps], EXPENDABLE)
        elif args.stop is not None:
            await qmp.execute("flap-stop", id=args.stop)
            if args.json:
                print_json({"id": args.stop})
        else:
            name = await qmp.name_of(args.link)
            started = await qmp.execute_with("flap-start", flap_arguments(name, args))
            if args.json:
                print_json(started)
            else:
                tail = f", seed {started['seed']}" if args.jitter else ""
                print(one_line(f"{started['id']}: {name} flaps{tail}"))
                sys.stdout.flush()
    return 0


def flap_arguments(name: str, args: argparse.Namespace) -> Entry:
    """Those of flap-start."""
    given = {
        "down-ms": args.down,
        "up-ms": args.up,
        "count": args.count,
        "jitter": args.jitter,
        "seed": args.seed,
    }
    return {"name": name, **{key: value for key, value in given.items() if value is not None}}


def row(flap: Entry) -> tuple[str, ...]:
    """The cells of one flap."""
    count = f" of {flap['count']}" if "count" in flap else ""
    return (
        flap["id"],
        flap["name"],
        duration(flap["down-ms"] / 1000),
        duration(flap["up-ms"] / 1000),
        f"{flap['jitter']}%",
        str(flap["seed"]),
        f"{flap['downs']}{count}",
        duration(flap["remaining-ms"] / 1000),
        flap["by"],
    )

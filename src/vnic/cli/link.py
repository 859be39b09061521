"""`vnic link`: the parsers of the verb, and `vnic link set NAME up|down [--for T] [--wait S]`: QMP's set_link.
The table of all links, `impair` and `fault` have files of their own.

"Accepted" is not "the guest saw it": with --wait the verb ends well only when the guest's driver has read the state.
"""

from __future__ import annotations

import argparse
import sys
import time

from vnic.cli import fault, impair
from vnic.cli.client import (
    Entry,
    Refused,
    add_instance_options,
    session,
)
from vnic.cli.link_filter import FILTERS, SORTED_BY, parse_filter
from vnic.cli.link_table import run_show
from vnic.cli.seen import follows_socket, hold_text, nic_of, wait_seen
from vnic.cli.show import link_word, micros, print_json
from vnic.cli.times import milliseconds
from vnic.printable import one_line, printable


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "link",
        help="show all links, or put one up or down",
        usage="vnic link [show [FILTER]...] [-d] [--sort COLUMN] [--reverse] [--json] [-n INSTANCE | --qmp PATH]\n"
        "       vnic link set NAME up|down [--for TIME] [--wait SECONDS] [--json] [-n INSTANCE | --qmp PATH]\n"
        f"       {impair.USAGE}\n       {fault.USAGE}",
        description="Show every NIC and netdev: how its link is, what the guest saw of it, and what holds it down.",
    )
    add_instance_options(parser)
    parser.add_argument("-j", "--json", action="store_true", help="print query-links as JSON")
    parser.add_argument(
        "-d",
        "--details",
        action="store_true",
        help="also where VMs plug in, who moves packets, filters, impairments",
    )
    parser.set_defaults(
        run=run_show, words=[], sort=None, reverse=False, check=_check_show, refuse=parser.error
    )
    what = parser.add_subparsers(
        title="one link, or to change one", prog="vnic link", metavar="show|set|impair|fault"
    )
    shower = what.add_parser(
        "show",
        help="show all links, or those that filters choose",
        usage="vnic link show [FILTER]... [-d] [--sort COLUMN] [--reverse] [--json] [-n INSTANCE | --qmp PATH]",
        description="Show all links, or those that meet all filters. A NAME shows its peer, too.",
        epilog="filters:\n" + "".join(f"  {words:18}{text}\n" for words, text in FILTERS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shower.add_argument("words", metavar="FILTER", nargs="*", help="a NAME, or one of those below")
    shower.add_argument(
        "--sort", metavar="COLUMN", choices=SORTED_BY, help=f"order the rows by {', '.join(SORTED_BY)}"
    )
    shower.add_argument("--reverse", action="store_true", help="the last row first")
    shower.add_argument(
        "-j", "--json", action="store_true", default=argparse.SUPPRESS, help="print query-links as JSON"
    )
    shower.add_argument(
        "-d",
        "--details",
        action="store_true",
        default=argparse.SUPPRESS,
        help="also where VMs plug in, who moves packets, filters, and impairments; with --json, query-topology",
    )
    add_instance_options(shower, inner=True)
    shower.set_defaults(run=run_show, check=_check_show, refuse=shower.error)
    setter = what.add_parser(
        "set",
        help="put a link up or down",
        description="Put the link of a NIC or a netdev up or down. Naming a NIC holds its end of the wire, naming a"
        " netdev both ends, as QEMU's set_link does.",
    )
    setter.add_argument("link", metavar="NAME", help="a NIC or a netdev, or a NIC's MAC address")
    setter.add_argument("state", choices=("up", "down"))
    setter.add_argument(
        "--for",
        dest="down_ms",
        metavar="TIME",
        type=milliseconds,
        help="with `down`: vnic puts it up again after TIME (200ms, 5s, 1m), also when this command has ended",
    )
    setter.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        help="wait until the guest saw it; exit 1 if it did not within SECONDS",
    )
    setter.add_argument(
        "-j", "--json", action="store_true", default=argparse.SUPPRESS, help="print the NIC's new state"
    )
    add_instance_options(setter, inner=True)
    setter.set_defaults(run=run_set, check=_check_set, refuse=setter.error)
    impair.add_parser(what)
    fault.add_parser(what)


def _check_show(args: argparse.Namespace) -> None:
    try:
        args.filter = parse_filter(args.words)
    except ValueError as error:
        args.refuse(str(error))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds between 0 and 86400")
    return value


# -- set ------------------------------------------------------------------------------------------------------------


def _check_set(args: argparse.Namespace) -> None:
    if args.down_ms is not None and args.state == "up":
        args.refuse("--for goes with `down`")


async def run_set(args: argparse.Namespace) -> int:
    async with session(args) as qmp:
        started = time.monotonic()
        name = await qmp.name_of(args.link)
        if args.down_ms is not None:
            flap = {"name": name, "down-ms": args.down_ms, "count": 1}
            await qmp.execute_with("flap-start", flap)
        else:
            await qmp.execute("set_link", name=name, up=args.state == "up")
        nic = await nic_of(qmp, name)
        if args.wait is not None:
            if nic is None:
                raise Refused(f"{name} is plugged into no NIC: there is no guest to wait for")
            if not nic["guest"]["attached"] and not follows_socket(nic) and args.wait > 0:
                print(f"vnic: no guest is attached to {one_line(nic['name'])} yet; waiting", file=sys.stderr)
            nic = await wait_seen(qmp, nic, args.state, args.wait, started)
        elif nic is None:
            nic = (await qmp.links(name))[0]
    if args.json:
        print_json(nic)
    else:
        _say(nic, args.state, waited=args.wait is not None)
    return 0


def _say(link: Entry, state: str, *, waited: bool) -> None:
    link = printable(link)
    text = f"{link['name']} {link_word(link['link'])}"
    if waited:
        latency = link["guest"].get("seen-latency-us")
        text += (
            f", seen by the guest after {micros(latency)}" if latency is not None else ", seen by the guest"
        )
    elif link["link"] != state:
        holds = "; ".join(hold_text(hold, link["name"]) for hold in link["holds"])
        text += f": the operator's hold is gone, but held by {one_line(holds)}"
    print(text)

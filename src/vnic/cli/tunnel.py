"""`vnic tunnel`: the tunnels, what their continuity checks say, and what was dropped."""

from __future__ import annotations

import argparse
import sys

from vnic.cli.client import Entry, Refused, add_instance_options, session
from vnic.cli.show import micros, print_json, print_table
from vnic.cli.spelling import did_you_mean
from vnic.printable import one_line

COLUMNS = ("NAME", "LOCAL", "REMOTE", "VNI", "KEY", "CCM", "THIS END", "FAR END", "HEARD", "DROPPED")
EXPENDABLE = ("LOCAL", "KEY", "HEARD")
COUNTED = ("ccm-sent", "ccm-received")
"""The counters that count no drops."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "tunnel",
        help="show the tunnels and their far ends",
        usage="vnic tunnel [NAME] [--json] [-n INSTANCE | --qmp PATH]",
        description="Show every tunnel, or one with all that is known of it: how both ends are, what was heard last,"
        " and which datagrams were dropped.",
    )
    parser.add_argument("tunnel", metavar="NAME", nargs="?", help="a tunnel netdev")
    parser.add_argument("-j", "--json", action="store_true", help="print query-tunnels as JSON")
    add_instance_options(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    async with session(args) as qmp:
        tunnels: list[Entry] = await qmp.execute("query-tunnels")
    if args.tunnel is not None:
        known = [each["name"] for each in tunnels]
        tunnels = [each for each in tunnels if each["name"] == args.tunnel]
        if not tunnels:
            raise Refused(f"there is no tunnel '{args.tunnel}'{did_you_mean(args.tunnel, known)}")
    if args.json:
        print_json(tunnels)
    elif args.tunnel is not None:
        for line in details(tunnels[0]):
            print(one_line(line))
        sys.stdout.flush()
    else:
        print_table(COLUMNS, [row(each) for each in tunnels], EXPENDABLE)
    return 0


def row(tunnel: Entry) -> tuple[str, ...]:
    """The cells of one tunnel."""
    ccm = tunnel.get("ccm")
    return (
        tunnel["name"],
        tunnel["local"],
        tunnel["remote"],
        str(tunnel["vni"]),
        "set" if tunnel["key"] else "-",
        _interval(ccm) if ccm is not None else "off",
        ccm["status"] if ccm is not None else "-",
        far_end(ccm["remote"]) if ccm is not None else "-",
        _heard(ccm["remote"]) if ccm is not None else "-",
        drops(tunnel["counters"]) or "-",
    )


def _interval(ccm: Entry) -> str:
    return micros(ccm["interval-us"])


def far_end(remote: Entry) -> str:
    """One word or two for the other end."""
    if remote.get("refused"):
        return "refuses"
    if remote["heard"] != "yes":
        return "lost" if remote["heard"] == "lost" else "not heard yet"
    status = str(remote.get("status", "up"))
    return f"{status}, hears nothing" if remote.get("rdi") else status


def _heard(remote: Entry) -> str:
    """When the far end was heard; vnic-wire tells only that it is, or since when it is not."""
    if remote["heard"] == "never" or "silent-us" not in remote:
        return "-" if remote["heard"] == "never" else "now"
    return f"{micros(remote['silent-us'])} ago"


def drops(counters: Entry) -> str:
    """The counters of what was dropped, without zeros."""
    return ", ".join(f"{name} {count}" for name, count in counters.items() if count and name not in COUNTED)


def details(tunnel: Entry) -> list[str]:
    """One tunnel, line by line."""
    mover = {"python": "Python", "wire": "vnic-wire"}[tunnel["path"]]
    facts = [f"VNI {tunnel['vni']}", *([f"MTU {tunnel['mtu']}"] if "mtu" in tunnel else [])]
    facts.append("with a key" if tunnel["key"] else "without a key")
    lines = [
        f"{tunnel['name']}: {tunnel['local']} to {tunnel['remote']}, {', '.join(facts)}, moved by {mover}"
    ]
    counters, ccm = tunnel["counters"], tunnel.get("ccm")
    if ccm is None:
        lines.append("  CCMs        off")
    else:
        mode = " (auto)" if ccm["mode"] == "auto" else ""
        sent, received = (counters[name] for name in COUNTED)
        lines.append(
            f"  CCMs        every {_interval(ccm)}{mode}, level {ccm['level']}, sent {sent}, received {received}"
        )
        rdi = ", hears nothing (RDI)" if ccm["rdi"] else ""
        lines.append(f"  this end    MEP {ccm['mep']}, {ccm['status']}{rdi}")
        remote = ccm["remote"]
        who = f"MEP {remote['mep']}, " if "mep" in remote else ""
        heard = "" if remote["heard"] == "never" else f", heard {_heard(remote)}"
        lines.append(f"  far end     {who}{far_end(remote)}{heard}")
    lines.append(f"  dropped     {drops(counters) or '-'}")
    lines.append(f"  at the port {drops(tunnel['socket']) or '-'}")
    return lines

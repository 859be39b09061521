"""`vnic why NAME`: why a link is up or down: the holds, what the guest saw, and the chain of the last changes.

All of it comes from query-links and query-link-log; this module only writes it for a person.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

from vnic.cli.ages import moment
from vnic.cli.changes import history
from vnic.cli.client import (
    Entry,
    Refused,
    Session,
    session,
)
from vnic.cli.journal import add_journal_options
from vnic.cli.show import (
    Now,
    cause_text,
    impairment_text,
    link_word,
    micros,
    print_json,
    style,
    when,
)
from vnic.printable import printable

DEFAULT_CHANGES = 8


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "why",
        help="say why a link is up or down",
        description="Say why a link is as it is: what holds it down, what the guest saw, and its last changes.",
    )
    parser.add_argument("link", metavar="NAME", help="a NIC or a netdev, or a NIC's MAC address")
    parser.add_argument(
        "-c",
        "--changes",
        metavar="N",
        type=_count,
        default=DEFAULT_CHANGES,
        help=f"how many of the last changes to show (default {DEFAULT_CHANGES})",
    )
    parser.add_argument(
        "--at",
        metavar="TIME",
        type=_moment,
        help="how it was then, also where vnic has ended since: 03:12 (the last that has passed), 2h (ago),"
        " 'yesterday 03:12', '2026-11-30 03:12:44'",
    )
    parser.add_argument("-j", "--json", action="store_true", help="print the state and the changes as JSON")
    add_journal_options(parser)
    parser.set_defaults(run=run, check=lambda args: _check(parser, args))


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.journal is not None and args.at is None:
        parser.error("--journal needs --at: a file knows no present")


def _moment(text: str) -> float:
    now = time.time()
    try:
        then = moment(text, now)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if then > now:
        raise argparse.ArgumentTypeError(f"'{text}' is still to come")
    return then


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no number")
    return int(text)


async def run(args: argparse.Namespace) -> int:
    if args.at is not None:
        from vnic.cli.why_at import run as run_at

        return await run_at(args)
    async with session(args) as qmp:
        found = await look(qmp, args.link, args.changes)
    if args.json:
        print_json({"links": found.links, "changes": found.changes, "causes": list(found.causes.values())})
    else:
        print("\n".join(explain(found)))
    return 0


@dataclass(frozen=True, slots=True)
class Explained:
    """What is known of a link: entries of query-links and of query-link-log."""

    name: str
    links: list[Entry]
    """A NIC and a netdev may share a name; empty where all of that name were deleted."""
    changes: list[Entry]
    """The last ones, the oldest first."""
    causes: dict[int, Entry]
    """The changes of others that those follow from, by id."""


async def look(qmp: Session, link: str, count: int = DEFAULT_CHANGES) -> Explained:
    """What is known of a link, by its name or MAC address, with its last `count` changes."""
    name = await qmp.name_of(link)
    links = await _links(qmp, name)
    changes = await qmp.link_log(name, count)
    return Explained(name, links, changes, await _causes(qmp, changes))


def explain(found: Explained) -> Iterator[str]:
    """The answer for a person, line by line."""
    now = Now()
    for link in printable(found.links):
        yield from describe(link, now)
    if not found.links:
        yield f"{style(printable(found.name), 'bold')} was deleted"
    yield from history(printable(found.changes), printable(found.causes), now)


async def _links(qmp: Session, name: str) -> list[Entry]:
    """The clients of that name; none if it was deleted and the journal still has its changes. Else Refused."""
    try:
        return await qmp.links(name)
    except Refused:
        if not await qmp.link_log(name, 1):
            raise
        return []


async def _causes(qmp: Session, changes: list[Entry]) -> dict[int, Entry]:
    """The changes of other clients that those in `changes` follow from, by id, and theirs in turn."""
    known = {change["id"]: change for change in changes}
    causes: dict[int, Entry] = {}
    wanted = [change["caused-by"] for change in changes if "caused-by" in change]
    while wanted:
        change_id = wanted.pop()
        if change_id in known:
            continue
        found = await qmp.link_log(limit=1, after_id=change_id - 1)
        if found and found[0]["id"] == change_id:  # else the journal has forgotten it
            known[change_id] = causes[change_id] = found[0]
            if "caused-by" in found[0]:
                wanted.append(found[0]["caused-by"])
    return causes


def describe(link: Entry, now: Now) -> Iterator[str]:
    """The state of one client: its link, its holds, its guest."""
    wire = f"{link['name']} ── {link['peer']}" if "peer" in link else f"{link['name']} ── (nothing)"
    mac = f", {link['mac']}" if "mac" in link else ""
    name = style(link["name"], "bold")
    yield f"{name} is {link_word(link['link'])}   {link['type']} {link['model']}{mac}, wire {wire}"
    for hold in link["holds"]:
        end = "" if hold["client"] == link["name"] else f" on {hold['client']}"
        since = when(hold["since"], hold["monotonic-us"], now)
        yield f"  held by {style(hold['kind'], 'yellow')}{end}: {cause_text(hold)} (since {since})"
    if not link["holds"]:
        yield "  nothing holds it down"
    for each in link.get("impairments", ()):
        yield f"  {style('impaired', 'yellow')} by {impairment_text(each)}"
    if link["type"] == "nic":
        guest = link["guest"]
        read_since = "seen-us" in link.get("last-change", {})
        if "vm" in link:
            yield from vm_lines(link)
        yield f"  guest: {guest_text(guest, link['link'], read_since=read_since)}"


def vm_lines(link: Entry) -> Iterator[str]:
    """What is known of the adopted VM that the NIC is in."""
    vm = link["vm"]
    netdev = f", plugged into {vm['netdev']} there" if "netdev" in vm else ""
    yield f"  adopted: {vm['device']} of {vm['object']} ({vm['text']}){netdev}"
    if "trouble" in vm:
        yield f"  {style('the VM does not show this link', 'yellow')}: {vm['trouble']}"
    if link.get("assumed"):
        yield "  assumed: the VM does not tell its link, and vnic has not set it yet"
    if "agent" in vm:
        yield f"  agent: {vm['agent']}"


def guest_text(guest: Entry, link: str, *, read_since: bool = True) -> str:
    """What is known of the guest, in words; `read_since`: it has read the link after its last change."""
    if guest.get("link-shown-by") == "socket":
        if guest["attached"]:
            return "attached; it sees the link by its socket only, and cannot confirm what it saw"
        if link == "up":
            return "its socket is there again, as the link is up; it has not come back yet"
        return "its socket is closed: that is how it sees the link down, and it cannot confirm it"
    if not guest["attached"]:
        return "none is attached"
    if guest.get("link-shown-by") == "nothing":
        return "attached; its card shows no link, so that it cannot see this; frames are dropped while it is down"
    if guest["seen"] == "unknown" and guest.get("link-shown-by") == "hypervisor":
        return "attached; what it saw of the link only an agent in it can tell (qga=)"
    if guest["seen"] == "unknown":
        return (
            "attached, "
            + ("its driver runs but" if guest["driver-ok"] else "its driver does not run and")
            + " has not read the link yet"
        )
    latency = f", {micros(guest['seen-latency-us'])} after the change" if "seen-latency-us" in guest else ""
    driver = "" if guest["driver-ok"] else " (its driver does not run now)"
    if "seen-by" in guest:
        driver = f" (says its {guest['seen-by']}){driver}"
    if guest["seen"] == link and not read_since:
        return f"it has not seen this: it last read {link_word(link)} before the change{driver}"
    if guest["seen"] == link:
        return f"it saw {link_word(link)}{latency}{driver}"
    return f"it has not seen this: it last read {link_word(guest['seen'])}{driver}"

"""The table of `vnic link`: one row for each NIC and netdev, what its guest saw, and what holds it down.

`link` calls `run_show`; `watch` and `top` write holds and guests in the same words.
"""

from __future__ import annotations

import argparse

from vnic.cli.client import Entry, session
from vnic.cli.link_filter import sort_links
from vnic.cli.seen import follows_socket, hold_text, shows_nothing
from vnic.cli.show import impairment_text, print_json, print_table
from vnic.printable import one_line

DETAILS = ("ATTACHED AT", "DATAPATH", "FILTERS", "IMPAIRED")
COLUMNS = ("NAME", "TYPE", "MODEL", "LINK", "OPERSTATE", "PEER", "GUEST SAW", "CHANGES", "HELD BY")
EXPENDABLE = ("TYPE", "OPERSTATE", "CHANGES")


async def run_show(args: argparse.Namespace) -> int:
    wanted = args.filter
    async with session(args) as qmp:
        if wanted.name is None:
            links = await qmp.links()
        else:
            links = await qmp.links(await qmp.name_of(wanted.name))
            for peer in [link["peer"] for link in links if "peer" in link]:
                links += [link for link in await qmp.links(peer) if link not in links]
        topology = await qmp.execute("query-topology") if args.details else None
    links = sort_links([link for link in in_wires(links) if wanted.meets(link)], args.sort)
    if args.reverse:
        links.reverse()
    if args.json:
        print_json(topology if topology is not None and not args.words else links)
    elif topology is not None:
        columns = (*COLUMNS[:-1], *DETAILS, COLUMNS[-1])
        print_table(columns, [detailed_row(link, topology) for link in links], EXPENDABLE)
    else:
        print_table(COLUMNS, [row(link) for link in links], EXPENDABLE)
    return 0


def in_wires(links: list[Entry]) -> list[Entry]:
    """Each NIC and then the netdev on its wire, and then netdevs without a NIC: a netdev that was deleted and added
    again is in its old place."""
    nics = [link for link in links if link["type"] == "nic"]
    netdevs = {link["name"]: link for link in links if link["type"] != "nic"}
    ordered: list[Entry] = []
    for nic in nics:
        ordered.append(nic)
        if (netdev := netdevs.pop(nic.get("peer", ""), None)) is not None:
            ordered.append(netdev)
    return [*ordered, *netdevs.values()]


def detailed_row(link: Entry, topology: Entry) -> tuple[str, ...]:
    """The cells of one client with those of DETAILS."""
    client: Entry = next(
        (
            each
            for each in topology["clients"]
            if (each["name"], each["type"]) == (link["name"], link["type"])
        ),
        {},
    )
    attached = [
        f"{each['type']} {each['path']}"
        for each in topology["attachments"]
        if link["type"] == "nic" and each["nic"] == link["name"]
    ]
    filters = ", ".join(each["id"] for each in client.get("filters", ()))
    impaired = one_line("; ".join(map(impairment_text, link.get("impairments", ()))))
    *first, last = row(link)
    return (
        *first,
        attached[0] if attached else "-",
        datapath_text(client),
        filters or "-",
        impaired or "-",
        last,
    )


def datapath_text(client: Entry) -> str:
    """`wire`, or `python: echo netdevs are in Python`."""
    path, reason = client.get("datapath", "-"), client.get("datapath-reason")
    return one_line(f"{path}: {reason}" if reason else path)


def row(link: Entry) -> tuple[str, ...]:
    """The cells of one client; `-` where there is nothing to say."""
    return (
        link["name"],
        link["type"],
        link["model"],
        link["link"],
        link["operstate"],
        link.get("peer", "-"),
        guest_saw(link),
        str(link["carrier-changes"]),
        one_line("; ".join(hold_text(hold, link["name"]) for hold in link["holds"])) or "-",
    )


def guest_saw(link: Entry) -> str:
    if link["type"] != "nic":
        return "-"
    guest = link["guest"]
    if follows_socket(link):
        return "by socket"
    if not guest["attached"]:
        return "no guest"
    return "cannot see" if shows_nothing(link) else str(guest["seen"])

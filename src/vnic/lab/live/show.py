"""`vnic lab show`: the nodes and the links of a running lab, as its record, its holders and its vnic have them."""

from __future__ import annotations

from typing import Any

import msgspec

from vnic.cli.client import Entry
from vnic.cli.show import print_table
from vnic.lab.file.names import netdev_id, nic_id
from vnic.lab.file.types import GUESTS, VMS, Link
from vnic.lab.live import guests, vnic
from vnic.lab.live.place import Place, Record
from vnic.net.records import HoldKind

NODES = ("NODE", "KIND", "STATE", "PID", "INTERFACES")
LINKS = ("LINK", "STATE", "IMPAIRED", "HELD BY")


class NodeShown(msgspec.Struct, rename="kebab", omit_defaults=True):
    """`state` is up or ended for guests, attached or waiting for socket nodes, whose VMs plug into `sockets`."""

    name: str
    kind: str
    state: str
    interfaces: dict[str, str]
    """Their links: up, down, or unknown where vnic has ended."""
    pid: int | None = None
    label: str | None = None
    sockets: dict[str, str] | None = None


class LinkShown(msgspec.Struct, rename="kebab"):
    """`state` is up if both NICs are. `held` has the holds' texts; `impaired` those of the impairments in effect, also
    of those that are not the file's."""

    endpoints: tuple[str, str]
    state: str
    held: list[str]
    impaired: list[str]


class LabShown(msgspec.Struct, rename="kebab"):
    name: str
    file: str
    vnic: str
    """up or ended; starting until all of the lab is up for the first time."""
    qmp: str
    nodes: list[NodeShown]
    links: list[LinkShown]


def look(place: Place, record: Record) -> LabShown:
    found = vnic.links_of(place, record.vnic_pid)
    alive, entries = found is not None, found or {}
    nodes = [_node(place, record, name, entries) for name in record.lab.nodes]
    links = [_link(record, link, entries) for link in record.lab.links]
    state = ("up" if alive else "ended") if record.complete else "starting"
    return LabShown(record.lab.name, record.file, state, str(place.qmp), nodes, links)


def _node(place: Place, record: Record, name: str, entries: dict[str, Entry]) -> NodeShown:
    node = record.lab.nodes[name]
    ends = [end for link in record.lab.links for end in (link.a, link.b) if end.node == name]
    if node.kind not in VMS:
        return NodeShown(name, node.kind, "-", {end.interface: "-" for end in ends})
    shown = NodeShown(name, node.kind, "ended", {end.interface: _state(entries, nic_id(end)) for end in ends})
    if node.kind in GUESTS:
        if (answer := guests.is_up(place, name)) is not None:
            shown.state, shown.pid, shown.label = "up", answer.pid, answer.label
        return shown
    attached = [entries.get(nic_id(end), {}).get("guest", {}).get("attached", False) for end in ends]
    shown.state = "attached" if attached and all(attached) else "waiting"
    shown.sockets = {end.interface: record.plan.nics[nic_id(end)]["attach"]["path"] for end in ends}
    return shown


def _state(entries: dict[str, Entry], name: str) -> str:
    return str(entries[name]["link"]) if name in entries else "unknown"


def _link(record: Record, link: Link, entries: dict[str, Entry]) -> LinkShown:
    ends = [end for end in (link.a, link.b) if record.lab.nodes[end.node].kind in VMS]
    states = {_state(entries, nic_id(end)) for end in ends}
    state = states.pop() if len(states) == 1 else "down" if "down" in states else "unknown"
    holds = [
        hold
        for end in ends
        for name in (nic_id(end), netdev_id(end))
        for hold in entries.get(name, {}).get("holds", ())
        if hold["client"] == name
    ]
    # A far end is held because of the other end's holds: those tell more, if there are any.
    first = [hold for hold in holds if hold["kind"] != HoldKind.FAR_END] or holds
    held = dict.fromkeys(f"{hold['kind']}: {hold['text']}" for hold in first)
    impaired = [
        str(each["text"]) + (f" at {name}, {each['queue']}" if each.get("queue") in ("rx", "tx") else "")
        for name in map(netdev_id, ends)
        for each in entries.get(name, {}).get("impairments", ())
    ]
    return LinkShown((str(link.a), str(link.b)), state, list(held), impaired)


def print_lab(shown: LabShown) -> None:
    """For a person: a line on the lab, its nodes, its links."""
    print(f"lab {shown.name}, {shown.file}; its vnic: {shown.vnic}, -n {shown.name}")
    print_table(NODES, [_row(node) for node in shown.nodes], ("PID",))
    if shown.links:
        print()
        rows = [
            (
                " ── ".join(link.endpoints),
                link.state,
                "; ".join(link.impaired) or "-",
                "; ".join(link.held) or "-",
            )
            for link in shown.links
        ]
        print_table(LINKS, rows)


def _row(node: NodeShown) -> tuple[str, ...]:
    words: dict[str, Any] = node.sockets or {}
    interfaces = [
        f"{name} {state}" + (f" at {words[name]}" if name in words else "") if state != "-" else name
        for name, state in node.interfaces.items()
    ]
    return node.name, node.kind, node.state, str(node.pid or "-"), ", ".join(interfaces) or "-"

"""Commands about NICs, back-ends and links: QEMU's (qapi/net.json) and vnic's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from vnic.monitor.commands.table import Caller, command
from vnic.monitor.interfaces import AttachmentNode, Later, MonitoredMachine, WireStats
from vnic.monitor.schema import netdev_options
from vnic.monitor.schema.shapes import Shape
from vnic.monitor.types import RxFilterInfo
from vnic.net.announce import AnnounceParameters
from vnic.net.records import LinkChange, LinkInfo
from vnic.net.topology import ClientNode, HubNode


class SetLink(msgspec.Struct):
    name: str
    up: bool


@command("set_link")
def set_link(caller: Caller, args: SetLink) -> None:
    """Set the link of a NIC, or of a netdev and of its NIC, up or down."""
    caller.machine.network.set_link(args.name, args.up, caller.who)


def _netdev(machine: MonitoredMachine) -> Shape:
    return netdev_options(machine.netdev_types)


@command("netdev_add", arguments=_netdev)
def netdev_add(caller: Caller, args: msgspec.Struct) -> Later:
    return caller.machine.netdev_add(args, caller.who)


class NetdevDel(msgspec.Struct):
    id: str


@command("netdev_del")
def netdev_del(caller: Caller, args: NetdevDel) -> Later:
    return caller.machine.netdev_del(args.id, caller.who)


class AnnounceSelf(msgspec.Struct):
    """AnnounceParameters; times in milliseconds."""

    initial: int
    max: int
    rounds: int
    step: int
    interfaces: list[str] | None = None
    id: str = ""


@command("announce-self")
def announce_self(caller: Caller, args: AnnounceSelf) -> None:
    interfaces = None if args.interfaces is None else tuple(args.interfaces)
    caller.machine.network.announce_self(
        AnnounceParameters(args.initial, args.max, args.rounds, args.step, interfaces, args.id)
    )


class MaybeName(msgspec.Struct):
    name: str | None = None


@command("query-rx-filter", returns=list[RxFilterInfo])
def query_rx_filter(caller: Caller, args: MaybeName) -> list[dict[str, object]]:
    return caller.machine.network.query_rx_filter(args.name)


@command("query-links", returns=list[LinkInfo])
def query_links(caller: Caller, args: MaybeName) -> Iterator[LinkInfo]:
    """The state of each link, every hold on it, and what the guest has seen of it."""
    return caller.machine.network.query_links(args.name)


class TopologyInfo(msgspec.Struct):
    """query-topology: all objects and their connections."""

    links: list[LinkInfo]
    clients: list[ClientNode]
    hubs: list[HubNode]
    attachments: list[AttachmentNode]


@command("query-topology", returns=TopologyInfo)
def query_topology(caller: Caller) -> dict[str, object]:
    """NICs, netdevs, wires, hubs, filters, attachments and data paths as one document. Its lists are made while they
    are sent."""
    machine = caller.machine
    topology = machine.topology()
    return {
        "links": machine.network.query_links(),
        "clients": topology.clients(),
        "hubs": topology.hubs,
        "attachments": iter(machine.attachments()),
    }


@command("query-wire-stats", returns=list[WireStats])
def query_wire_stats(caller: Caller) -> list[WireStats] | asyncio.Future[list[WireStats]]:
    """Frames and drops at each NIC and netdev whose packets vnic-wire moves."""
    return caller.machine.wire_stats()


class QueryLinkLog(msgspec.Struct, rename="kebab"):
    name: str | None = None
    limit: int | None = None
    after_id: int | None = None


@command("query-link-log")
def query_link_log(caller: Caller, args: QueryLinkLog) -> list[LinkChange]:
    """The journal, oldest first; with `after-id`, the changes after that one."""
    return caller.machine.network.query_link_log(args.name, args.limit, args.after_id)

"""Commands about NICs, back-ends and links: QEMU's (qapi/net.json) and vnic's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import msgspec

from vnic.backend.tunnel.info import TunnelInfo
from vnic.monitor.commands.table import Caller, command
from vnic.monitor.interfaces import AttachmentNode, Later, MonitoredMachine, TrafficInfo, WireStats
from vnic.monitor.schema import netdev_options
from vnic.monitor.schema.shapes import Shape
from vnic.monitor.types import RxFilterInfo
from vnic.net.announce import AnnounceParameters
from vnic.net.errors import NetError
from vnic.net.flaps import COUNT_MAX, MS_MAX, SEED_MAX, FlapInfo, Pattern
from vnic.net.records import LinkInfo
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
    caller.machine.paths.check("netdev", args)
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


class FlapStart(msgspec.Struct, rename="kebab"):
    """`up_ms` may be left out where `count` is 1."""

    name: str
    down_ms: int
    up_ms: int | None = None
    count: int | None = None
    jitter: int = 0
    seed: int | None = None


class FlapStarted(msgspec.Struct):
    id: str
    seed: int


@command("flap-start")
def flap_start(caller: Caller, args: FlapStart) -> FlapStarted:
    """Put a link down, and up again, by a schedule that goes on without its client."""
    if args.up_ms is None and args.count != 1:
        raise NetError("Parameter 'up-ms' is missing")
    up_ms = args.down_ms if args.up_ms is None else args.up_ms
    seed = int.from_bytes(os.urandom(4)) if args.seed is None else args.seed
    values = {
        "down-ms": (args.down_ms, 1, MS_MAX),
        "up-ms": (up_ms, 1, MS_MAX),
        "count": (1 if args.count is None else args.count, 1, COUNT_MAX),
        "jitter": (args.jitter, 0, 100),
        "seed": (seed, 0, SEED_MAX),
    }
    for key, (value, least, most) in values.items():
        if not least <= value <= most:
            raise NetError(f"Parameter '{key}' expects a number from {least} to {most}, not '{value}'")
    pattern = Pattern(down_ms=args.down_ms, up_ms=up_ms, count=args.count, jitter=args.jitter, seed=seed)
    return FlapStarted(caller.machine.network.flaps.start(args.name, pattern, caller.who), seed)


class FlapStop(msgspec.Struct):
    id: str


@command("flap-stop")
def flap_stop(caller: Caller, args: FlapStop) -> None:
    """End a flap; its link is up then."""
    caller.machine.network.flaps.stop(args.id, caller.who)


@command("query-flaps")
def query_flaps(caller: Caller) -> list[FlapInfo]:
    """The flaps under way."""
    return list(caller.machine.network.flaps.query())


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


@command("query-traffic", returns=list[TrafficInfo])
def query_traffic(caller: Caller) -> Iterator[TrafficInfo] | asyncio.Future[Iterator[TrafficInfo]]:
    """Frames and drops at each NIC and netdev, whoever moved them."""
    return caller.machine.traffic()


@command("query-tunnels", returns=list[TunnelInfo])
def query_tunnels(caller: Caller) -> list[TunnelInfo] | asyncio.Future[list[TunnelInfo]]:
    """The tunnels, what their continuity checks say of both ends, and the datagrams that were dropped."""
    return caller.machine.tunnels()

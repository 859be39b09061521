"""What passed at each NIC and netdev, by Python and by vnic-wire: query-traffic and the metrics are made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vnic.dataplane.wire.ports import frames_of
from vnic.dataplane.wire.replies import PortStats
from vnic.monitor.interfaces import TrafficInfo
from vnic.net.client import NetClient
from vnic.net.traffic import Frames


def frames_by_path(client: NetClient, at_wire: PortStats | None) -> tuple[Frames, Frames]:
    """The frames at one end that Python moved, and those that vnic-wire did, also at ports that it has no longer."""
    wire = Frames()
    wire.add(client.traffic.wire)
    if at_wire is not None:
        wire.add(frames_of(at_wire))
    peer = client.peer
    return client.traffic.python(None if peer is None else peer.traffic), wire


def drops_by_path(client: NetClient, at_wire: PortStats | None) -> dict[tuple[str, str], int]:
    """The frames that were dropped at one end, by reason and path."""
    traffic = client.traffic
    drops = {(reason, "python"): count for reason, count in traffic.python_drops(client.dropped).items()}
    drops.update({(reason, "wire"): count for reason, count in traffic.wire_drops.items()})
    if at_wire is not None:
        for reason, count in at_wire.drops.items():
            drops[reason, "wire"] = drops.get((reason, "wire"), 0) + count
    return drops


def traffic_of(clients: Iterable[NetClient], ports: Mapping[NetClient, PortStats]) -> Iterator[TrafficInfo]:
    """query-traffic; the counters are taken as each entry is made."""
    for client in clients:
        at_wire = ports.get(client)
        total, wire = frames_by_path(client, at_wire)
        total.add(wire)
        yield TrafficInfo(
            name=client.name,
            type=client.record_type,
            frames_in=total.frames_in,
            bytes_in=total.bytes_in,
            frames_out=total.frames_out,
            bytes_out=total.bytes_out,
            dropped=sum(drops_by_path(client, at_wire).values()),
        )

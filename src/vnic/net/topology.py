"""The network as one document: clients and their peers, hubs, filters (query-topology).

`info network` and `vnic link -d` print it. The entries are made one at a time, so that the monitor can send a network
of ten thousand NICs in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from vnic.net.client import NetClient, Nic, clients_of_wire
from vnic.net.records import ClientType, DataPathWord
from vnic.net.wire import PathInfo

Hubs = Sequence[tuple[int, Sequence[NetClient]]]
"""The id of each hub and the clients of its ports, in order."""


class End(msgspec.Struct, frozen=True):
    """One end of a wire; a NIC and a netdev may have the same name."""

    name: str
    type: ClientType


class FilterNode(msgspec.Struct, frozen=True):
    """A filter on a netdev."""

    id: str
    type: str
    info: str
    """Its properties as `info network` prints them, each after a comma."""


class ClientNode(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    """A NIC or a netdev."""

    name: str
    type: ClientType
    model: str
    info: list[str]
    """The text of each queue in `info network`."""
    peer: End | None = None
    netdev: str | None = None
    """Of a NIC: the id of its netdev, which need not exist yet."""
    datapath: DataPathWord = "none"
    """What moves its packets: this process, vnic-wire, or a vhost-user back-end that has the guest's rings."""
    datapath_reason: str | None = None
    """Why this process does, with `python`."""
    filters: list[FilterNode] = []
    """Of a netdev; the first is the nearest to it."""

    @property
    def end(self) -> End:
        return End(self.name, self.type)


class HubNode(msgspec.Struct, frozen=True):
    """A hub and the netdevs that are its ports, in order."""

    id: int
    ports: list[str]


class Topology:
    """The network's document. The network may change while `clients` is iterated."""

    def __init__(
        self, clients: Sequence[NetClient], path: Callable[[NetClient], PathInfo], hubs: Hubs = ()
    ) -> None:
        """`path` returns that of a client's packets."""
        self._path = path
        self._clients = {End(client.name, client.record_type): client for client in clients}
        self.hubs = [HubNode(hub_id, [port.name for port in ports]) for hub_id, ports in hubs]
        self._on_hubs = {
            End(end.name, end.record_type)
            for _, ports in hubs
            for port in ports
            for end in clients_of_wire(port)
        }

    def clients(self) -> Iterator[ClientNode]:
        """All clients in the order of their creation."""
        return (_node(client, self._path(client)) for client in self._clients.values())

    def _find(self, end: End) -> ClientNode | None:
        client = self._clients.get(end)
        return None if client is None else _node(client, self._path(client))

    def info_network(self) -> Iterator[str]:
        """The lines of HMP `info network` (net/net-hmp-cmds.c: hmp_info_network): the hubs with their ports, then each
        NIC with its peer behind ` \\ `, then netdevs without one."""
        for hub in self.hubs:
            yield f"hub {hub.id}\n"
            for name in hub.ports:
                port = self._find(End(name, "netdev"))
                peer = self._find(port.peer) if port is not None and port.peer is not None else None
                yield f" \\ {name}" + ("\n" if peer is None else ": " + _lines(peer, 0))
        for node in self.clients():
            if node.end in self._on_hubs or (node.peer is not None and node.type != "nic"):
                continue
            peer = self._find(node.peer) if node.peer is not None else None
            for queue in range(len(node.info)):
                yield _lines(node, queue)
                if peer is not None and queue < len(peer.info):
                    yield " \\ " + _lines(peer, queue)


def _node(client: NetClient, path: PathInfo) -> ClientNode:
    peer = client.peer
    nic = client if isinstance(client, Nic) else None
    return ClientNode(
        name=client.name,
        type=client.record_type,
        model=client.model,
        info=[client.endpoint.info_text(queue) for queue in range(client.queues)],
        peer=End(peer.name, peer.record_type) if peer is not None else None,
        netdev=nic.netdev_id if nic is not None else None,
        datapath=path.path,
        datapath_reason=path.reason,
        filters=[FilterNode(each.id, each.type, each.info_text()) for each in client.filters],
    )


def _lines(node: ClientNode, queue: int) -> str:
    """print_net_client."""
    kind = "nic" if node.type == "nic" else node.model
    text = f"{node.name}: index={queue},type={kind},{node.info[queue]}\n"
    if node.filters:
        text += "filters:\n"
        text += "".join(f"  - {each.id}: type={each.type}{each.info}\n" for each in node.filters)
    return text

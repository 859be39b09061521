"""How clients and links are shown: the text of `info network` (QEMU's) and the entries of query-links (vnic's)."""

from __future__ import annotations

from collections.abc import Sequence

from vnic.net.client import (
    GuestView,
    NetClient,
    Nic,
    clients_of_wire,
)


def link_info(client: NetClient) -> dict[str, object]:
    """One entry of query-links.

    A NIC's `holds` are those of both ends of its wire, a netdev's its own: exactly those that keep `link` down. A
    netdev's `guest` is that of the NIC on its wire.
    """
    nic = client if isinstance(client, Nic) else None
    behind = nic or client.peer
    holders = clients_of_wire(client) if nic else (client,)
    entry: dict[str, object] = {
        "name": client.name,
        "type": "nic" if nic else "netdev",
        "model": client.model,
        "link": "up" if client.link_up else "down",
        "operstate": client.operstate,
        "holds": [hold.to_dict(holder.name) for holder in holders for hold in holder.holds.values()],
    }
    if client.peer is not None:
        entry["peer"] = client.peer.name
    if nic:
        entry["mac"] = nic.mac_text()
    up_changes, down_changes = client.carrier_up_changes, client.carrier_down_changes
    entry["carrier-changes"] = up_changes + down_changes
    entry["carrier-up-changes"] = up_changes
    entry["carrier-down-changes"] = down_changes
    assert client.last_change is not None  # its birth, if nothing else
    entry["last-change"] = client.last_change.to_dict()
    entry["guest"] = (behind.guest if isinstance(behind, Nic) else GuestView()).to_dict()
    return entry


def _client_lines(client: NetClient, queue: int) -> str:
    """print_net_client of net/net-hmp-cmds.c."""
    text = f"{client.name}: index={queue},type={client.type},{client.endpoint.info_text(queue)}\n"
    if client.filters:
        text += "filters:\n"
        text += "".join(f"  - {each.id}: type={each.type}{each.info_text()}\n" for each in client.filters)
    return text


def info_network(clients: Sequence[NetClient], hubs: Sequence[tuple[int, Sequence[NetClient]]] = ()) -> str:
    """hmp_info_network: the hubs with their ports, then each NIC with its peer behind ` \\ `, then lone netdevs.

    `hubs` are (hub id, its ports in order).
    """
    lines = []
    shown: set[NetClient] = set()
    for hub_id, ports in hubs:
        lines.append(f"hub {hub_id}\n")
        for port in ports:
            shown.update(clients_of_wire(port))
            lines.append(f" \\ {port.name}")
            lines.append(": " + _client_lines(port.peer, 0) if port.peer is not None else "\n")
    for client in clients:
        if client in shown:
            continue
        peer = client.peer
        if peer is not None and not client.is_nic:
            continue
        for queue in range(client.queues):
            lines.append(_client_lines(client, queue))
            if peer is not None and queue < peer.queues:
                lines.append(" \\ " + _client_lines(peer, queue))
    return "".join(lines)

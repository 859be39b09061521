"""How clients and links are shown: the text of `info network` (QEMU's) and the entries of query-links (vnic's)."""

from __future__ import annotations

from collections.abc import Sequence

from vnic.net.client import NetClient, Nic, clients_of_wire
from vnic.net.records import GuestInfo, LinkInfo, link_word

_NO_GUEST = GuestInfo(attached=False, driver_ok=False, seen="unknown")


def link_info(client: NetClient) -> LinkInfo:
    """One entry of query-links."""
    nic = client if isinstance(client, Nic) else None
    behind = nic or client.peer
    holders = clients_of_wire(client) if nic else (client,)
    up_changes, down_changes = client.carrier_up_changes, client.carrier_down_changes
    assert client.last_change is not None  # its creation, if nothing else
    return LinkInfo(
        name=client.name,
        type=client.record_type,
        model=client.model,
        link=link_word(client.link_up),
        operstate=client.operstate,
        holds=[hold for holder in holders for hold in holder.holds.values()],
        carrier_changes=up_changes + down_changes,
        carrier_up_changes=up_changes,
        carrier_down_changes=down_changes,
        last_change=client.last_change,
        guest=behind.guest if isinstance(behind, Nic) else _NO_GUEST,
        peer=client.peer.name if client.peer is not None else None,
        mac=nic.mac_text() if nic else None,
    )


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

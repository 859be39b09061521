"""Whose holds keep a client's link down. `link`, query-links and the metrics ask here."""

from __future__ import annotations

from collections.abc import Sequence

from vnic.net.client import NetClient, clients_of_wire
from vnic.net.records import Hold


def holders_of_link(client: NetClient) -> Sequence[NetClient]:
    """The ends whose holds keep a client's link down: both for a NIC, itself for a netdev."""
    return clients_of_wire(client) if client.is_nic else (client,)


def holds_of_link(client: NetClient) -> list[Hold]:
    """All holds that keep a client's link down: a NIC's include those of its peer."""
    return [hold for holder in holders_of_link(client) for hold in holder.holds.values()]

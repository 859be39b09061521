"""The entries of query-links. `Network.query_links` makes one for each client."""

from __future__ import annotations

from collections.abc import Callable

from vnic.net.client import NetClient, Nic, clients_of_wire
from vnic.net.holds import holds_of_link
from vnic.net.records import GuestInfo, LinkImpairment, LinkInfo, link_word
from vnic.net.wire import PathInfo

_NO_GUEST = GuestInfo(attached=False, driver_ok=False, seen="unknown")


def link_info(
    client: NetClient, path: PathInfo, faults: Callable[[NetClient], list[LinkImpairment]]
) -> LinkInfo:
    """One entry of query-links; `path` is that of its packets, `faults` gives those of a client."""
    nic = client if isinstance(client, Nic) else None
    behind = nic or client.peer
    up_changes, down_changes = client.carrier_up_changes, client.carrier_down_changes
    wire, adopted = clients_of_wire(client), client.endpoint.adopted()
    filters = (each.impairment() for end in wire for each in end.filters if each.on)
    assert client.last_change is not None  # its creation, if nothing else
    return LinkInfo(
        name=client.name,
        type=client.record_type,
        model=client.model,
        link=link_word(client.link_up),
        operstate=client.operstate,
        holds=holds_of_link(client),
        carrier_changes=up_changes + down_changes,
        carrier_up_changes=up_changes,
        carrier_down_changes=down_changes,
        last_change=client.last_change,
        guest=behind.guest if isinstance(behind, Nic) else _NO_GUEST,
        datapath=path.path,
        datapath_reason=path.reason,
        peer=client.peer.name if client.peer is not None else None,
        mac=nic.mac_text() if nic else None,
        impairments=[
            *(each for each in filters if each is not None),
            *(each for end in wire for each in faults(end)),
        ],
        assumed=adopted is not None and adopted.assumed,
        vm=None if adopted is None else adopted.vm,
    )

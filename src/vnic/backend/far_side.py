"""Whether there is a guest with a link at the other end of a netdev's wire, for back-ends that show it to the host.

`tap` sets its interface's carrier by it; `interface` sets its interface up and down.
"""

from __future__ import annotations

from vnic.net.client import NetClient, Nic
from vnic.net.records import HoldKind, ShownBy


def has_link(client: NetClient, *, ignoring: HoldKind | None = None) -> bool:
    """Whether no end of the wire is held, and the NIC's VM is attached. A hold of the netdev itself of the kind
    `ignoring` does not count."""
    peer = client.peer
    if peer is None or peer.holds or any(kind is not ignoring for kind in client.holds):
        return False
    if not isinstance(peer, Nic):
        return True
    guest = peer.guest
    # A VM whose socket was closed to show it that its link is down connects again when the link is up.
    return guest.attached or guest.link_shown_by is ShownBy.SOCKET

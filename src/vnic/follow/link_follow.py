"""link-follow: holds a NIC down (`uplink`) while an interface of this host, or another wire of this vnic, is down.

The registry of objects makes it. It waits for a NIC, an interface or a netdev that does not exist yet or any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from vnic.backend.base import BackendContext
from vnic.backend.interface_watch import interface_operates
from vnic.follow.options import LinkFollowOptions
from vnic.net.client import NetClient, Nic, clients_of_wire
from vnic.net.errors import NetError
from vnic.net.follow import Follower, Reason, hold_to_follow, netdevs
from vnic.net.objects import NetObject
from vnic.net.records import HoldKind

log = logging.getLogger(__name__)


class LinkFollow(NetObject, Follower):
    """One NIC that follows; no other object may hold the same NIC."""

    type = "link-follow"
    kind = HoldKind.UPLINK

    def __init__(self, context: BackendContext, options: LinkFollowOptions) -> None:
        super().__init__(options.id)
        if (options.ifname is None) is (options.netdev is None):
            raise NetError("exactly one of 'ifname' and 'netdev' has to be given")
        self.options = options
        self._context = context
        self._network = context.network
        self._followers = context.network.links.followers
        self._unsubscribe: Callable[[], None] | None = None
        self._circle: Sequence[str] | None = None

    def setup(self) -> None:
        options = self.options
        for each in self._network.objects:
            if isinstance(each, LinkFollow) and each.options.nic == options.nic:
                raise NetError(f"'{options.nic}' follows already: object '{each.id}'")
        if options.ifname is not None:
            try:
                self._unsubscribe = self._context.interfaces.subscribe(options.ifname, self._changed)
            except OSError as error:
                raise NetError(f"the kernel does not report its interfaces: {error.strerror}") from None
        self._followers.wait_for(self, "nic", options.nic)
        if options.netdev is not None:
            self._followers.wait_for(self, "netdev", options.netdev)
        self._find_clients()
        self._changed()

    def cleanup(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        target = self._followers.target(self)
        joined = self._followers.joined([] if target is None else [target])
        self._followers.remove(self)
        if target is not None:
            text = f"object {self.id} was deleted"
            self._network.links.release(target, self.kind, self.id, text)
        for each in joined:
            each.rewired()

    def _changed(self) -> None:
        self._network.links.follow(self)

    def _find_clients(self, coming: NetClient | None = None) -> None:
        """`coming` is being created and cannot be found yet."""
        nic, netdev = self._nic, self._netdev
        if isinstance(coming, Nic):
            nic = coming
        elif coming is not None:
            netdev = coming
        self._followers.set(self, nic, [] if netdev is None else [netdev])
        for each in self._followers.joined([] if nic is None else [nic]):
            each.rewired()

    @property
    def _nic(self) -> Nic | None:
        return self._network.find_nic(self.options.nic)

    @property
    def _netdev(self) -> NetClient | None:
        netdev_id = self.options.netdev
        return None if netdev_id is None else self._network.find_netdev(netdev_id)

    # -- Follower -----------------------------------------------------------------------------------------------

    @property
    def follower_name(self) -> str:
        return self.id

    def client_came(self, client: NetClient) -> None:
        self._find_clients(client)

    def client_gone(self, client: NetClient) -> None:
        self._find_clients()

    def rewired(self) -> None:
        """Tell once of a circle that begins here."""
        circle = self._followers.find_circle(self)
        if (circle is None) is (self._circle is None):
            return
        self._circle = circle
        if circle is not None:
            ring = " → ".join(reversed([*circle, self.id]))
            rule = "this NIC stays down" if self.options.invert else "none is down only because of the others"
            log.warning("%s: a circle of followers, %s: %s", self.options.nic, ring, rule)
        self._changed()

    def decide(self) -> Reason | None:
        options = self.options
        if options.invert and self._circle is not None:
            circle = " → ".join(reversed([*self._circle, self.id]))
            return Reason(self.id, f"link-follow {self.id} has invert=on in a circle of followers: {circle}")
        if options.ifname is not None:
            state = interface_operates(options.ifname)
            if bool(state) is not options.invert:
                return None
            word = "does not exist" if state is None else "is up" if state else "is down"
            return Reason(self.id, f"interface {options.ifname} {word}")
        return self._follow_wire(f"the wire of {options.netdev}")

    def _follow_wire(self, what: str) -> Reason | None:
        netdev, target = self._netdev, self._followers.target(self)
        if netdev is None:
            return None if self.options.invert else Reason(self.id, f"{self.options.netdev} does not exist")
        wire = clients_of_wire(netdev)
        hold = hold_to_follow(wire, () if target is None else clients_of_wire(target))
        if self.options.invert:
            return Reason(self.id, f"{what} is up", netdevs(wire)) if hold is None else None
        if hold is None:
            return None
        where = "" if hold.client == netdev.name else f" at {hold.client}"
        text = hold.kind if hold.via else f"{hold.kind}: {hold.text}"
        return Reason(hold.by, f"{what} is held{where}, {text}", (*netdevs(wire), *hold.via))

    def released_text(self) -> str:
        options = self.options
        if options.ifname is not None:
            return f"interface {options.ifname} is {'down' if options.invert else 'up'}"
        return f"the wire of {options.netdev} is {'down' if options.invert else 'up'}"

    # -- QOM ----------------------------------------------------------------------------------------------------

    def all_properties(self) -> dict[str, object]:
        options = self.options
        return {
            "nic": options.nic,
            "ifname": options.ifname or "",
            "netdev": options.netdev or "",
            "invert": options.invert,
        }

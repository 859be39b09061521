"""link-follow: holds a NIC down (`uplink`) while an interface of this host, or another wire of this vnic, is down.

The registry of objects makes it. It waits for a NIC, an interface or a netdev that does not exist yet or any more. If a
netdev of this vnic shows its wire's link on the interface (a tap, `interface` with propagate=on), that wire is followed
there, so that no interface stays down only because a NIC that follows it does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from vnic.backend.base import BackendContext
from vnic.backend.rtnetlink import LinkState, is_interface_name
from vnic.follow.options import LinkFollowOptions
from vnic.net.client import NetClient, Nic, clients_of_wire
from vnic.net.errors import NetError
from vnic.net.follow import SHOWN, UNDECIDED, Follower, Reason, Undecided, hold_to_follow, netdevs
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
        if options.ifname is not None and not is_interface_name(options.ifname):
            raise NetError(f"Parameter 'ifname' expects the name of an interface: '{options.ifname[:80]}'")
        self.options = options
        self._context = context
        self._network = context.network
        self._followers = context.network.links.followers
        self._unfollow: Callable[[], None] | None = None
        self._state: LinkState | Undecided | None = UNDECIDED
        """Of the interface; None: there is none of that name."""
        self._circle: Sequence[str] | None = None

    def setup(self) -> None:
        options = self.options
        for each in self._network.objects:
            if isinstance(each, LinkFollow) and each.options.nic == options.nic:
                raise NetError(f"'{options.nic}' follows already: object '{each.id}'")
        if options.ifname is not None:
            try:
                self._unfollow = self._context.interfaces.follow(options.ifname, self._told)
            except OSError as error:
                raise NetError(f"the kernel does not report its interfaces: {error.strerror}") from None
            self._followers.wait_for(self, SHOWN, options.ifname)
        self._followers.wait_for(self, "nic", options.nic)
        if options.netdev is not None:
            self._followers.wait_for(self, "netdev", options.netdev)
        self._find_clients()
        self._refuse_own_interface()
        self._network.links.follow(self)

    def _refuse_own_interface(self) -> None:
        """A NIC that comes later is accepted; a log line tells of the circle then."""
        nic, ifname = self._nic, self.options.ifname
        for netdev in () if ifname is None else self._followers.shown(ifname):
            if nic is not None and netdev.peer is nic:
                raise NetError(
                    f"'{nic.name}' has the link of interface {ifname} already, by netdev '{netdev.name}'"
                )

    def cleanup(self) -> None:
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None
        target = self._followers.target(self)
        joined = self._followers.joined([] if target is None else [target])
        self._followers.remove(self)
        if target is not None:
            text = f"object {self.id} was deleted"
            self._network.links.release(target, self.kind, self.id, text)
        for each in joined:
            each.rewired()

    def _told(self, state: LinkState | None) -> None:
        """The kernel reported the interface."""
        self._state = state
        self._network.links.follow(self)

    def _find_clients(self, coming: NetClient | None = None) -> None:
        """`coming` is being created and cannot be found yet, or shows its wire's link on the interface now."""
        nic, netdev = self._nic, self._netdev
        if isinstance(coming, Nic):
            nic = coming
        elif coming is not None and coming.name == self.options.netdev:
            netdev = coming
        sources = [] if netdev is None else [netdev]
        if self.options.ifname is not None:
            sources += self._followers.shown(self.options.ifname)
        self._followers.set(self, nic, sources)
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
        self._network.links.follow(self)

    def decide(self) -> Reason | Undecided | None:
        options = self.options
        if options.invert and self._circle is not None:
            circle = " → ".join(reversed([*self._circle, self.id]))
            return Reason(self.id, f"link-follow {self.id} has invert=on in a circle of followers: {circle}")
        if options.ifname is not None:
            return self._follow_interface(options.ifname)
        netdev = self._netdev
        if netdev is None:
            return None if options.invert else Reason(self.id, f"{options.netdev} does not exist")
        return self._follow_wire(netdev, f"the wire of {options.netdev}")

    @property
    def _own_wire(self) -> Sequence[NetClient]:
        target = self._followers.target(self)
        return () if target is None else clients_of_wire(target)

    def _follow_interface(self, ifname: str) -> Reason | Undecided | None:
        state, shown = self._state, self._followers.shown(ifname)
        if any(netdev in self._own_wire for netdev in shown):
            return None  # the netdev itself has the interface's link
        for netdev in shown:
            if netdev.endpoint.shows_down() and not self.options.invert:
                return self._follow_shown(netdev, ifname)
        if isinstance(state, Undecided):
            return UNDECIDED
        word = "does not exist" if state is None else "is down" if state.trouble else "is up"
        if (word == "is up") is not self.options.invert:
            return None
        return Reason(self.id, f"interface {ifname} {word}", netdevs(shown))

    def _follow_shown(self, netdev: NetClient, ifname: str) -> Reason | None:
        """The interface is down because of a wire: be held for the same reason, unless it came from here."""
        wire = clients_of_wire(netdev)
        if not any(end.holds for end in wire):
            text = f"interface {ifname} is down: no VM is plugged into {wire[-1].name}"
            return Reason(netdev.name, text, netdevs(wire))
        return self._follow_wire(netdev, f"the wire of {netdev.name}, which interface {ifname} shows,")

    def _follow_wire(self, netdev: NetClient, what: str) -> Reason | None:
        wire = clients_of_wire(netdev)
        hold = hold_to_follow(wire, self._own_wire)
        if self.options.invert:
            return Reason(self.id, f"{what} is up", netdevs(wire)) if hold is None else None
        if hold is None:
            return None
        where = "" if hold.client == netdev.name else f" at {hold.client}"
        text = hold.kind if hold.via else f"{hold.kind}: {hold.text}"
        return Reason(hold.by, f"{what} is held{where}, {text}", (*netdevs(wire), *hold.via), hold.first_kind)

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

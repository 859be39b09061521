"""The Network: all net clients of a vnic, in order, and the commands and queries of a monitor (QEMU's net/net.c).

The machine adds NICs and netdevs, the monitor sets and queries links, back-ends hold and release them; observers
subscribe to its events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vnic.net import info
from vnic.net.announce import AnnounceParameters, Announcer
from vnic.net.client import (
    Endpoint,
    NetClient,
    Nic,
    clients_of_wire,
)
from vnic.net.clients import Clients
from vnic.net.clock import Clock, Scheduler
from vnic.net.errors import DeviceNotFound, NetError
from vnic.net.faults import Faults
from vnic.net.flaps import Flaps
from vnic.net.journal import Journal
from vnic.net.link import Links, new_hold
from vnic.net.names import check_identifier
from vnic.net.objects import Objects
from vnic.net.records import (
    VNIC,
    Cause,
    HoldKind,
    LinkInfo,
)
from vnic.net.topology import Hubs, Topology
from vnic.net.wire import Wires

Listener = Callable[[str, object], None]
"""Called with an event's name and its data: a Struct or a dict, which is empty for an event without data."""

MAX_QUEUES = 1024
"""MAX_QUEUE_NUM of QEMU's net.h."""


class Network:
    """The set of clients. Not thread-safe: one control thread calls everything here."""

    def __init__(
        self, scheduler: Scheduler, clock: Clock | None = None, journal: Journal | None = None
    ) -> None:
        self.scheduler = scheduler
        self.clock = clock or Clock()
        self.clients = Clients()
        self.journal = journal or Journal(self.clock)
        self.links = Links(self.clock, self.journal, self.emit)
        self.wires = Wires(scheduler, self.clients)
        """Which path the packets of each wire take."""
        self.objects = Objects()
        self.flaps = Flaps(scheduler, self)
        self.faults = Faults(self)
        self._announcer = Announcer(scheduler, lambda: self.clients.nics)
        self._listeners: list[Listener] = []

    # -- events -------------------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(name, data)` for every event; the returned function ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def emit(self, name: str, data: object) -> None:
        for listener in list(self._listeners):
            listener(name, data)

    # -- finding ------------------------------------------------------------------------------------------------

    def find_all(self, name: str) -> list[NetClient]:
        """Every client of that exact name, in order (qemu_find_net_clients_except)."""
        return self.clients.named(name)

    def find_netdev(self, netdev_id: str) -> NetClient | None:
        return self.clients.netdev(netdev_id)

    def find_nic(self, name: str) -> Nic | None:
        return self.clients.nic(name)

    @property
    def nics(self) -> list[Nic]:
        return list(self.clients.nics)

    # -- adding -------------------------------------------------------------------------------------------------

    def check_netdev_id(self, netdev_id: str) -> None:
        """Raise NetError, with QEMU's text, for an id that is malformed or in use."""
        check_identifier(netdev_id)
        if self.find_netdev(netdev_id) is not None:
            raise NetError(f"Duplicate ID '{netdev_id}'")

    def add_netdev(
        self,
        netdev_id: str,
        model: str,
        endpoint: Endpoint,
        queues: int = 1,
        link: bool = True,
        by: str = VNIC,
        start: Callable[[], None] | None = None,
    ) -> NetClient:
        """Create a back-end's client and plug a NIC that names its id into it. `by` names the requester. `start` is
        called in place of `endpoint.start`: for a back-end that is restored.

        A NetError of `endpoint.start()` removes the client again and is raised.
        """
        self.check_netdev_id(netdev_id)
        if not 1 <= queues <= MAX_QUEUES:
            raise NetError(f"Parameter 'queues' expects a number from 1 to {MAX_QUEUES}")
        client = NetClient(self, netdev_id, model, endpoint, queues)
        self._start(client, link, by, start or endpoint.start)
        if endpoint.plugs_into is not None:
            waiting = self.find_nic(endpoint.plugs_into)
        else:
            waiting = self.clients.waiting_for(netdev_id)
        if waiting is not None and waiting.peer is None:
            self._plug(waiting, client, by)
        return client

    def add_nic(
        self,
        device_id: str | None,
        model: str,
        endpoint: Endpoint,
        *,
        mac: bytes,
        queues: int = 1,
        netdev_id: str | None = None,
        link: bool = True,
        driver: str | None = None,
        by: str = VNIC,
        start: Callable[[], None] | None = None,
        restored_as: str | None = None,
    ) -> Nic:
        """Create a NIC's client and plug it into the netdev `netdev_id`; without one it starts with the hold `no-peer`.

        `driver` is the property's owner in error texts (`virtio-net-device`); `by` names the requester. `start` is
        called in place of `endpoint.start`: before its endpoint and the netdev's are told that they are peers.
        `restored_as`: the name of a NIC that is restored; its netdev may have been deleted.
        """
        if device_id is not None:
            check_identifier(device_id)
            if self.find_nic(device_id) is not None:
                raise NetError(f"Duplicate device ID '{device_id}'")
        if restored_as is None:
            netdev = self._free_netdev(netdev_id, driver or model)
        else:
            found = None if netdev_id is None else self.find_netdev(netdev_id)
            netdev = found if found is not None and found.peer is None else None
        name = restored_as or device_id or f"{model}.{self.clients.of_model(model)}"  # net/net.c: assign_name
        path = f"/machine/peripheral/{name}" if device_id else f"/machine/peripheral-anon/{name}"
        nic = Nic(self, name, model, endpoint, queues, mac, netdev_id, path)
        if netdev is None:
            self._hold_from_the_start(nic, HoldKind.NO_PEER, by, "no netdev was given to the NIC")
        else:
            _peer(nic, netdev)
        try:
            self._start(nic, link, by, start or endpoint.start)
        except BaseException:
            _unpeer(nic)
            raise
        if netdev is not None:
            endpoint.peer_changed()
            netdev.endpoint.peer_changed()
            nic.path_changed()
        return nic

    def adopt_nic(
        self,
        name: str,
        model: str,
        endpoint: Endpoint,
        *,
        mac: bytes,
        path: str,
        by: str,
        start: Callable[[], None] | None = None,
        held: str | None = None,
    ) -> Nic:
        """Create the client of a NIC whose device model is in another program's VM (`Endpoint.elsewhere`). It has no
        netdev, and no hold for that; a cable's end that names it is its peer. `start` is as for `add_nic`. `held`: why
        its operator keeps it down already."""
        if self.find_nic(name) is not None:
            raise NetError(f"Duplicate device ID '{name}'")
        nic = Nic(self, name, model, endpoint, 1, mac, None, path)
        if held is not None:
            self._hold_from_the_start(nic, HoldKind.OPERATOR, by, held)
        try:
            self._start(nic, True, by, start or endpoint.start)
        except BaseException:
            _unpeer(nic)
            raise
        if nic.peer is not None:
            nic.peer.endpoint.peer_changed()
            nic.path_changed()
        return nic

    def plug_adopted(self, nic: Nic, cable: NetClient) -> None:
        """`nic`, of an adopted VM, is being created, and `cable` was waiting for it."""
        if nic.endpoint.elsewhere and nic.peer is None and cable.peer is None:
            _peer(nic, cable)

    def _free_netdev(self, netdev_id: str | None, driver: str) -> NetClient | None:
        """The netdev that a NIC names, with set_netdev's errors (hw/core/qdev-properties-system.c)."""
        if netdev_id is None:
            return None
        netdev = self.find_netdev(netdev_id)
        if netdev is None:
            raise NetError(f"Property '{driver}.netdev' can't find value '{netdev_id}'")
        if netdev.peer is not None or netdev.endpoint.plugs_into is not None:
            raise NetError(f"Property '{driver}.netdev' can't take value '{netdev_id}', it's in use")
        return netdev

    def _start(self, client: NetClient, link: bool, by: str, start: Callable[[], None]) -> None:
        if not link:
            self._hold_from_the_start(
                client, HoldKind.OPERATOR, by, f"link=off when {client.name} was created"
            )
        self.links.coming(client)
        try:
            start()
        except BaseException:
            self.links.gone(client)
            _clean_up(client)
            raise
        self.clients.add(client)
        self.links.created(client, by)

    def _hold_from_the_start(self, client: NetClient, kind: HoldKind, by: str, text: str) -> None:
        client.holds[kind] = new_hold(client.name, kind, by, text, self.clock)

    def connect(self, first: NetClient, second: NetClient) -> None:
        """Make two clients without a peer each other's peer (a hubport and its netdev)."""
        _peer(first, second)
        for end in (first, second):
            end.endpoint.peer_changed()
            end.path_changed()
        self.links.wire_changed(first)

    def _plug(self, nic: Nic, netdev: NetClient, by: str) -> None:
        def edit() -> None:
            _peer(nic, netdev)
            nic.holds.pop(HoldKind.NO_PEER, None)

        netdev_change = netdev.last_change.id if netdev.last_change else None
        cause = Cause(HoldKind.NO_PEER, by, f"netdev {netdev.name} is back")
        if nic.endpoint.elsewhere and netdev.holds:  # it was up without a cable
            hold = next(iter(netdev.holds.values()))
            cause = Cause(hold.kind, hold.by, hold.text)
        self.links.replugged(nic, edit, cause, netdev_change)
        netdev.endpoint.peer_changed()
        netdev.path_changed()

    # -- removing -----------------------------------------------------------------------------------------------

    def delete_netdev(self, netdev_id: str, by: str) -> None:
        """QMP netdev_del: close the back-end; its peer NIC stays and is notified (qemu_del_net_client)."""
        netdev = self.find_netdev(netdev_id)
        if netdev is None:
            raise DeviceNotFound(netdev_id)
        self._delete_netdev(netdev, by, f"netdev {netdev_id} was deleted")

    def _delete_netdev(self, netdev: NetClient, by: str, text: str) -> None:
        for each in list(netdev.filters):  # while the wire still exists: they pass on kept frames
            each.remove()
        self.clients.remove(netdev)
        peer = netdev.peer
        if isinstance(peer, Nic):
            nic = peer

            kind = next(iter(netdev.holds), HoldKind.FAR_END) if nic.endpoint.elsewhere else HoldKind.NO_PEER

            def edit() -> None:
                _unpeer(nic)
                if not nic.endpoint.elsewhere:
                    nic.holds[HoldKind.NO_PEER] = new_hold(nic.name, HoldKind.NO_PEER, by, text, self.clock)

            self.links.replugged(nic, edit, Cause(kind, by, text))
        elif peer is not None:
            _unpeer(netdev)
            peer.endpoint.peer_changed()
            self.links.wire_changed(peer)
        self.links.gone(netdev)
        self.wires.removed(netdev)
        _clean_up(netdev)
        if peer is not None:
            peer.path_changed()

    def delete_nic(self, name: str) -> None:
        """Remove a NIC; its netdev stays, without a peer (qemu_del_nic)."""
        nic = self.find_nic(name)
        if nic is None:
            raise DeviceNotFound(name)
        netdev = nic.peer
        _unpeer(nic)
        nic.endpoint.peer_changed()
        if netdev is not None:
            netdev.endpoint.peer_changed()
            self.links.wire_changed(netdev)
        self.clients.remove(nic)
        self.wires.removed(nic)
        self.links.gone(nic)
        _clean_up(nic)
        if netdev is not None:
            netdev.path_changed()

    def close_netdevs(self) -> None:
        """The first half of `close`: delete the back-ends and notify their NICs."""
        self._announcer.close()
        self.flaps.close()
        self.faults.close()
        self.objects.part()  # adopted VMs keep their links as they are
        for client in list(self.clients):
            if not client.is_nic:
                self._delete_netdev(client, VNIC, "vnic is shutting down")
        self.objects.close()  # later than the netdevs: no link comes up because what held it ends

    def close(self) -> None:
        """Close all clients in QEMU's order (net_cleanup): back-ends first, NICs last."""
        self.close_netdevs()
        for nic in self.nics:
            self.delete_nic(nic.name)

    # -- commands and queries of a monitor ----------------------------------------------------------------------

    def set_link(self, name: str, up: bool, by: str) -> None:
        """QMP set_link. `by` names the requester."""
        self.flaps.end(name, "set_link has the last word")
        self.put_link(name, up, by, f"set_link {name} {'on' if up else 'off'}")

    def put_link(self, name: str, up: bool, by: str, text: str) -> None:
        """Place or release the operator's hold as set_link does."""
        matches = self.clients.named(name)
        if not matches:
            raise DeviceNotFound(name)
        self.links.set_link(matches, up, by, text)

    def exists(self, name: str) -> bool:
        """Whether there is a client of that name."""
        return bool(self.clients.named(name))

    def announce_self(self, parameters: AnnounceParameters) -> None:
        """QMP announce-self."""
        self._announcer.announce(parameters)

    def query_rx_filter(self, name: str | None = None) -> list[dict[str, object]]:
        """QMP query-rx-filter (net/net.c: qmp_query_rx_filter)."""
        filters: list[dict[str, object]] = []
        for client in self.clients if name is None else self.find_all(name):
            if not isinstance(client, Nic):
                if name is not None:
                    raise NetError(f"net client({name}) isn't a NIC")
                continue
            rx_filter = client.endpoint.rx_filter()
            if rx_filter is None:
                if name is not None:
                    raise NetError(f"net client({name}) doesn't support rx-filter querying")
                continue
            client.rx_filter_notify = True
            client.kept.changed()
            filters.append({"name": client.name, **rx_filter})
        if name is not None and not filters:
            raise NetError(f"invalid net client name: {name}")
        return filters

    def query_links(self, name: str | None = None) -> Iterator[LinkInfo]:
        """vnic's query-links. Each entry is made when the iterator reaches it; a client removed before is left out."""
        clients = list(self.clients) if name is None else self.find_all(name)
        if name is not None and not clients:
            raise DeviceNotFound(name)
        return (
            info.link_info(client, self.wires.path(client), self.faults.of)
            for client in clients
            if client in self.clients
        )

    def topology(self, hubs: Hubs = ()) -> Topology:
        """The network as one document."""
        return Topology(list(self.clients), self.wires.path, hubs)

    def info_network(self, hubs: Hubs = ()) -> str:
        """The text of HMP `info network`, with "\\n" line ends."""
        return "".join(self.topology(hubs).info_network())


def _clean_up(client: NetClient) -> None:
    endpoint = client.endpoint
    endpoint.cleanup()
    for kept in (endpoint.kept, client.kept, client.item):
        kept.end()


def _peer(first: NetClient, second: NetClient) -> None:
    """Make two clients each other's peer."""
    _join(first, second)
    _join(second, first)


def _join(end: NetClient, peer: NetClient | None) -> None:
    old, end.peer = end.peer, peer
    end.traffic.plugged(None if old is None else old.traffic, None if peer is None else peer.traffic)


def _unpeer(client: NetClient) -> None:
    """Separate two peers and drop the frames that wait at either end, so that no sender waits for ever."""
    ends = clients_of_wire(client)
    for end in ends:
        _join(end, None)
    for end in ends:
        end.purge()

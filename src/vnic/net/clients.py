"""All net clients of a network, in the order of their creation, with indexes by name, netdev id, model and MAC.

`Network` adds, removes and finds clients here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from vnic.net.client import NetClient, Nic
from vnic.net.names import default_mac, default_mac_index

K = TypeVar("K")
C = TypeVar("C", bound=NetClient)


class Clients:
    """The table of clients. The time of a look-up does not depend on their number."""

    def __init__(self) -> None:
        self._all: dict[NetClient, None] = {}
        self._names: dict[str, dict[NetClient, None]] = {}
        self._plans: dict[str, dict[Nic, None]] = {}
        """By netdev id, which need not exist yet."""
        self._models: Counter[str] = Counter()
        self._macs: Counter[bytes] = Counter()
        self._next_mac = 0
        """All default MACs before this one are taken."""

    def __iter__(self) -> Iterator[NetClient]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, client: object) -> bool:
        return client in self._all

    def add(self, client: NetClient) -> None:
        self._all[client] = None
        self._names.setdefault(client.name, {})[client] = None
        if not client.endpoint.elsewhere:
            self._models[client.model] += 1
        if isinstance(client, Nic):
            self._macs[client.mac] += 1
            if client.netdev_id is not None:
                self._plans.setdefault(client.netdev_id, {})[client] = None

    def sort(self, key: Callable[[NetClient], int]) -> None:
        """Bring them into another order than that of their creation."""
        self._all = dict.fromkeys(sorted(self._all, key=key))
        for name, clients in self._names.items():
            self._names[name] = dict.fromkeys(sorted(clients, key=key))

    def remove(self, client: NetClient) -> None:
        """Raises KeyError if it is not there."""
        del self._all[client]
        _drop(self._names, client.name, client)
        if not client.endpoint.elsewhere:
            _lower(self._models, client.model)
        if isinstance(client, Nic):
            _lower(self._macs, client.mac)
            if (index := default_mac_index(client.mac)) >= 0:
                self._next_mac = min(self._next_mac, index)
            if client.netdev_id is not None:
                _drop(self._plans, client.netdev_id, client)

    @property
    def nics(self) -> Iterator[Nic]:
        return (client for client in self._all if isinstance(client, Nic))

    def named(self, name: str) -> list[NetClient]:
        """Every client of that exact name, in order (qemu_find_net_clients_except)."""
        return list(self._names.get(name, ()))

    def netdev(self, netdev_id: str) -> NetClient | None:
        return next((client for client in self._names.get(netdev_id, ()) if not client.is_nic), None)

    def nic(self, name: str) -> Nic | None:
        return next((client for client in self._names.get(name, ()) if isinstance(client, Nic)), None)

    def waiting_for(self, netdev_id: str) -> Nic | None:
        """The first NIC that names that netdev and has no peer."""
        return next((nic for nic in self._plans.get(netdev_id, ()) if nic.peer is None), None)

    def of_model(self, model: str) -> int:
        """How many clients are of that model, without those of adopted VMs."""
        return self._models[model]

    def free_mac(self) -> bytes:
        """The first default MAC that no NIC has (qemu_macaddr_default_if_unset)."""
        while (mac := default_mac(self._next_mac)) in self._macs:
            self._next_mac += 1
        return mac


def _drop(index: dict[str, dict[C, None]], key: str, client: C) -> None:
    found = index[key]
    del found[client]
    if not found:
        del index[key]


def _lower(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]

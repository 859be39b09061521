"""The hubs of a machine and their ports. `hubport` adds and removes the ports, and `info network` lists them."""

from __future__ import annotations

from typing import Protocol

from vnic.net.client import NetClient


class Port(Protocol):
    """What a hub needs from a port."""

    client: NetClient


class Hub:
    """One hub; `ports` has the newest first, the order in which QEMU lists and serves them."""

    def __init__(self, hub_id: int) -> None:
        self.id = hub_id
        self.ports: list[Port] = []


class Hubs:
    """The hubs of a machine, the newest first. A hub without ports remains (QEMU's net/hub.c frees none)."""

    def __init__(self) -> None:
        self._hubs: list[Hub] = []

    def join(self, port: Port, hub_id: int) -> Hub:
        hub = next((hub for hub in self._hubs if hub.id == hub_id), None)
        if hub is None:
            hub = Hub(hub_id)
            self._hubs.insert(0, hub)
        hub.ports.insert(0, port)
        return hub

    def leave(self, port: Port, hub: Hub) -> None:
        hub.ports.remove(port)

    def listing(self) -> list[tuple[int, list[NetClient]]]:
        """(hub id, the clients of its ports) for `Network.info_network`."""
        return [(hub.id, [port.client for port in hub.ports]) for hub in self._hubs]

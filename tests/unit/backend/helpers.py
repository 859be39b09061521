"""Helpers for the tests of the back-ends: a network with a NIC on a real loop, and waiting for a condition."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self

from tests.fakes.events import record_events

from vnic.backend import BackendContext, netdev_add
from vnic.backend.options import NetdevOptions
from vnic.monitor.passed_fds import FdRegistry
from vnic.net.client import Endpoint, NetClient, Nic
from vnic.net.network import Network
from vnic.net.queue import Frame
from vnic.net.records import HoldKind

MAC = bytes.fromhex("525400123456")
PATIENCE_S = 60.0
"""Far above any expected time, also on a busy machine."""


class Guest(Endpoint):
    """A fake device model of a NIC, which keeps frames while it has room."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.offloads: list[bytes] = []
        self.room = 1_000_000
        self.resumed = 0
        self.link: list[bool] = []
        """The link states of the notifications, without repetitions."""

    def receive(self, queue: int, frame: Frame, offload: bytes = b"") -> bool:
        if self.room <= 0:
            return False
        self.room -= 1
        self.got.append(bytes(frame))
        self.offloads.append(offload)
        return True

    def sent(self, queue: int) -> None:
        self.resumed += 1

    def link_status_changed(self) -> None:
        if self.link[-1:] != [self.client.link_up]:
            self.link.append(self.client.link_up)

    def make_room(self) -> None:
        self.room = 1_000_000
        self.client.flush(0)


class EveryFd(FdRegistry):
    """Every descriptor of the tests counts as inherited."""

    def take(self, name: str) -> int:
        self._inherited = set(range(3, 1024))
        return super().take(name)

    def take_socket(self, name: str) -> int:
        self._inherited = set(range(3, 1024))
        return super().take_socket(name)


class Lab:
    """A network on the running loop; the exit closes everything."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.network = Network(self.loop)
        self.context = BackendContext(self.loop, self.network, fds=EveryFd())
        self.events = record_events(self.network)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.network.close()
        if self.context.leaving:
            await asyncio.wait(self.context.leaving)
        await asyncio.sleep(0)

    def add(self, options: NetdevOptions) -> NetClient:
        """Create a netdev that needs no preparation."""
        assert netdev_add(self.context, options) is None
        return self._added(options)

    async def add_prepared(self, options: NetdevOptions) -> NetClient:
        """Create a netdev that may need preparation."""
        later = netdev_add(self.context, options)
        if later is not None:
            await later
        return self._added(options)

    def _added(self, options: NetdevOptions) -> NetClient:
        client = self.network.find_netdev(options.id)
        assert client is not None
        return client

    def nic(
        self, netdev_id: str, name: str = "nic0", queues: int = 1, *, attached: bool = True
    ) -> tuple[Nic, Guest]:
        """A NIC, and the device model that plays it; `attached`: with a VM."""
        guest = Guest()
        nic = self.network.add_nic(name, "virtio-net", guest, mac=MAC, netdev_id=netdev_id, queues=queues)
        if attached:
            nic.report.guest_attached()
        return nic, guest

    def wire(self, options: NetdevOptions) -> tuple[NetClient, Nic, Guest]:
        """A netdev with a NIC."""
        netdev = self.add(options)
        nic, guest = self.nic(netdev.name, f"nic-{netdev.name}")
        return netdev, nic, guest

    def named(self, event: str) -> list[dict[str, object]]:
        return [data for name, data in self.events if name == event]

    def why(self, name: str) -> str:
        """The text of what holds a client, but for its interface that is down."""
        holds = self.network.find_all(name)[0].holds
        (hold,) = (
            (hold for kind, hold in holds.items() if kind is not HoldKind.UPLINK)
            if len(holds) > 1
            else holds.values()
        )
        return hold.text

    def why_last_down(self, name: str) -> str:
        """The cause of a client's last loss of its link, whatever holds it now."""
        changes = self.network.journal.select(name)
        return next(change.cause.text for change in reversed(changes) if change.link == "down")

    def info(self) -> str:
        return self.network.info_network(self.context.hubs.listing())


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition` holds; it has PATIENCE_S."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        await asyncio.sleep(0.002)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 1.5 * PATIENCE_S))

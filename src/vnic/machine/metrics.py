"""`-metrics`: what Prometheus reads. A scrape takes a snapshot in slices of the loop, and a thread makes its text.

Names are those of node_exporter where it has them, so that its dashboards and alerts work. `vnic run` opens and closes
`Metrics`; `docs/manual.md` lists all names.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vnic import __version__
from vnic.machine.snapshot import Device, Snapshot
from vnic.machine.traffic import drops_by_path, frames_by_path
from vnic.net.client import NetClient, Nic
from vnic.net.holds import holds_of_link
from vnic.net.records import HoldKind
from vnic.observe.tally import Tally
from vnic.sockets.address import InetAddress
from vnic.sockets.http import HttpServer, Page, Request, plain
from vnic.sockets.listener import MANY_PEERS, Listening, listen_at, listen_on
from vnic.sockets.resolve import resolve_all

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from vnic.dataplane.wire.replies import PortStats
    from vnic.machine.core import Machine

log = logging.getLogger(__name__)

PATH: Final = "/metrics"
SLICE: Final = 50
"""NICs and netdevs that one turn of the loop takes; some 20 µs each."""
DEFAULT_DEVICES: Final = 1000
TALLY_SLACK: Final = 256
"""The names of deleted NICs and netdevs that are counted before all of them are forgotten."""
OPENMETRICS: Final = "application/openmetrics-text"
PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The HTTP server of one machine's metrics, from its creation to `close`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        machine: Machine,
        listening: Listening,
        devices: int = DEFAULT_DEVICES,
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._devices = devices
        self._tally = Tally()
        self._unsubscribe = machine.network.subscribe(self._heard)
        self._scrape: asyncio.Task[Snapshot] | None = None
        """The snapshot that is being taken: all who ask meanwhile get it."""
        self._server = HttpServer(loop, listening, self._page, "metrics")

    def _heard(self, event: str, data: object) -> None:
        """Deleted ones are forgotten also where nobody scrapes: a monitor's client may make new names for ever."""
        self._tally.heard(event, data)
        clients = self._machine.network.clients
        if len(self._tally) > 2 * len(clients) + TALLY_SLACK:
            self._tally.keep_only({client.name for client in clients})

    async def close(self) -> None:
        self._unsubscribe()
        if self._scrape is not None:
            self._scrape.cancel()
        await self._server.close()

    async def _page(self, request: Request) -> Page:
        if request.path != PATH:
            return plain(404, f"the metrics are at {PATH}")
        snapshot = await self._snapshot()
        accept = request.headers.get("accept", "")
        body, content_type = await self._loop.run_in_executor(None, exposition, snapshot, accept)
        return Page(body, content_type)

    async def _snapshot(self) -> Snapshot:
        if self._scrape is None or self._scrape.done():
            self._scrape = self._loop.create_task(self._take())
        return await asyncio.shield(self._scrape)

    async def _take(self) -> Snapshot:
        machine = self._machine
        stats = machine.port_stats()
        at_wire = await stats if isinstance(stats, asyncio.Future) else stats
        clients = list(machine.network.clients)
        snapshot = Snapshot(machine.vnic_info(), machine.restarts())
        snapshot.more = max(0, len(clients) - self._devices)
        del clients[self._devices :]
        for first in range(0, len(clients), SLICE):
            for client in clients[first : first + SLICE]:
                snapshot.devices.append(_device(machine, client, at_wire.get(client)))
            await asyncio.sleep(0)
        names = {each.name for each in snapshot.devices}
        self._tally.keep_only(names)
        snapshot.changes = {name: Counter(each) for name, each in self._tally.changes.items()}
        snapshot.latencies = {name: each.copy() for name, each in self._tally.latencies.items()}
        return snapshot


@dataclass(frozen=True, slots=True)
class MetricsChoice:
    """-metrics: where it listens, and of how many NICs and netdevs it tells."""

    host: str | None = None
    port: int = 0
    path: str | None = None
    """A unix socket in place of host and port."""
    devices: int = DEFAULT_DEVICES

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"{self.host}:{self.port}"

    async def open(self, loop: asyncio.AbstractEventLoop, machine: Machine) -> Metrics:
        """Raises NetError if it cannot listen there."""
        if self.path is not None:
            listening = listen_at(self.path)
        else:
            address = InetAddress(host=self.host or "", port=str(self.port))
            targets = await resolve_all(loop, address, passive=True)
            listening = listen_on(targets, address, backlog=MANY_PEERS)
        return Metrics(loop, machine, listening, self.devices)


def _device(machine: Machine, client: NetClient, at_wire: PortStats | None) -> Device:
    nic = client if isinstance(client, Nic) else None
    python, wire = frames_by_path(client, at_wire)
    return Device(
        name=client.name,
        type=client.record_type,
        model=client.model,
        address=nic.mac_text() if nic is not None else "",
        up=client.link_up,
        operator_up=HoldKind.OPERATOR not in client.holds,
        operstate=client.operstate,
        carrier_up_changes=client.carrier_up_changes,
        carrier_down_changes=client.carrier_down_changes,
        holds=[(hold.client, hold.kind) for hold in holds_of_link(client)],
        guest=None if nic is None else (nic.guest.attached, nic.guest.driver_ok, nic.guest.seen),
        path=machine.network.wires.path(client).path,
        python=python,
        wire=wire,
        drops=drops_by_path(client, at_wire),
    )


class _Registry:
    """The part of prometheus_client's registry that its encoders call."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        from vnic.machine.metric_families import families

        return families(self._snapshot, __version__)


def exposition(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The text in the form that the scraper takes, and its content type. It runs in a thread."""
    registry: Any = _Registry(snapshot)
    if OPENMETRICS in accept:
        from prometheus_client.openmetrics import exposition as openmetrics

        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]
    from prometheus_client import generate_latest as generate_plain

    return generate_plain(registry), PLAIN

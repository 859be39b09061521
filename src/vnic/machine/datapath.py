"""The data paths of a machine: its WireEngine where there is a vnic-wire, and what monitors ask about it.

`Machine` has one DataPaths; the command line finds the program with `wire_command`.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from vnic.keep import NO_KEEP, Keep
from vnic.machine.traffic import traffic_of
from vnic.monitor.interfaces import Later, TrafficInfo, WireDrops, WireStats
from vnic.net.errors import NetError
from vnic.net.network import Network
from vnic.net.wire import SEGMENTS_PER_TURN, NoEngine

if TYPE_CHECKING:
    from vnic.dataplane.wire.engine import WireEngine
    from vnic.dataplane.wire.recall import Recall
    from vnic.dataplane.wire.replies import PortStats
    from vnic.net.client import NetClient

log = logging.getLogger("vnic.wire")

T = TypeVar("T")

Mode = Literal["auto", "python"]


@dataclass(frozen=True, slots=True)
class Choice:
    """`-datapath`."""

    mode: Mode = "auto"
    workers: int = 1
    """The threads of vnic-wire that move frames; a wire belongs to one of them."""
    spin_us: int = 0
    """How long such a thread polls after its last frame, before it sleeps."""


@dataclass(frozen=True, slots=True)
class WireCommand:
    """How vnic-wire is started."""

    command: tuple[str, ...]
    workers: int = 1
    spin_us: int = 0


COMPILERS = ("cc", "gcc", "clang")


def wire_command(choice: Choice) -> WireCommand | str:
    """How vnic-wire is started, or why it is not used."""
    from vnic.dataplane.wire.process import NOT_BUILT, find_program, switched_off

    if choice.mode == "python":
        return "-datapath python"
    if switched_off():
        return "VNIC_WIRE=off"
    program = find_program()
    if program is not None:
        return WireCommand((str(program),), choice.workers, choice.spin_us)
    compiler = any(map(shutil.which, COMPILERS))
    return f"{NOT_BUILT}: {'`make setup` builds it' if compiler else 'no C compiler'}"


class DataPaths:
    """What moves the packets of one machine."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: Network,
        wire: WireCommand | str,
        keep: Keep = NO_KEEP,
    ) -> None:
        """Takes back what the process before had at its vnic-wire, which can take milliseconds; `settle` follows when
        all else is restored."""
        self._loop = loop
        self._network = network
        self._engine: WireEngine | None = None
        self._recall: Recall | None = None
        if keep.active:
            from vnic.dataplane.wire.recall import Recall

            self._recall = Recall(keep)
            self._recall.run()
        if isinstance(wire, str):
            log.info("Python moves all packets: %s", wire)
            network.wires.use(NoEngine(wire))
            return
        from vnic.dataplane.wire.engine import WireEngine

        self._engine = WireEngine(
            loop, network.wires, wire.command, workers=wire.workers, spin_us=wire.spin_us, keep=keep
        )
        network.wires.use(self._engine)
        if self._recall is not None:
            self._engine.program.restore(self._recall)

    def settle(self) -> None:
        """Give all ends what vnic-wire left of them, and go on with it. Called once, when all of them are restored, and
        before the loop's next turn."""
        recall, self._recall = self._recall, None
        if recall is None:
            return
        from vnic.dataplane.wire.settle import settle

        goes_on = self._engine is not None and self._engine.program.will_run
        impairments = self._engine.impairments if self._engine is not None and goes_on else None
        settle(recall, self._network.clients, impairments)
        if self._engine is not None:
            self._engine.adopt()
            self._network.wires.settle(SEGMENTS_PER_TURN)  # before Python moves any frame of these
        else:
            recall.close()

    @property
    def restarts(self) -> int:
        """How often vnic-wire was restarted."""
        return self._engine.program.restarts if self._engine is not None else 0

    def when_returned(self, later: Later) -> Later:
        """`later`, and when vnic-wire has closed the descriptors of deleted netdevs."""
        leaving = self._engine.leaving() if self._engine is not None else None
        if leaving is None or later is None:
            return leaving or later
        return self._loop.create_task(_both(leaving, later))

    def stats(self) -> list[WireStats] | asyncio.Future[list[WireStats]]:
        """The counters of vnic-wire, for each client that it carries."""
        return self._counters(lambda found: [_entry(client, stats) for client, stats in found])

    def traffic(self) -> Iterator[TrafficInfo] | asyncio.Future[Iterator[TrafficInfo]]:
        """query-traffic: what passed at each NIC and netdev, on both paths."""
        return self._counters(lambda found: traffic_of(list(self._network.clients), dict(found)))

    def port_stats(self) -> dict[NetClient, PortStats] | asyncio.Future[dict[NetClient, PortStats]]:
        """The same as vnic-wire has them."""
        return self._counters(dict)

    def _counters(self, convert: Callable[[list[tuple[NetClient, PortStats]]], T]) -> T | asyncio.Future[T]:
        """What `convert` makes of the counters of all ports that vnic-wire has."""
        if self._engine is None:
            return convert([])
        future: asyncio.Future[T] = self._loop.create_future()

        def done(found: list[tuple[NetClient, PortStats]]) -> None:
            if not future.done():
                future.set_result(convert(found))

        self._engine.stats(done)
        return future

    def when_refreshed(self, answer: Callable[[], T]) -> T | asyncio.Future[T]:
        """What `answer` gives when vnic-wire's counters of tunnels are up to date."""
        return answer() if self._engine is None else self._after(self._engine.refresh_tunnels, answer)

    def when_counted(self, answer: Callable[[], T]) -> T | asyncio.Future[T]:
        """What `answer` gives when vnic-wire's counters of impairments are up to date."""
        return answer() if self._engine is None else self._after(self._engine.count_impaired, answer)

    def _after(
        self, refresh: Callable[[Callable[[], None]], None], answer: Callable[[], T]
    ) -> T | asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()

        def done() -> None:
            if not future.done():
                try:
                    future.set_result(answer())
                except NetError as error:
                    future.set_exception(error)

        refresh(done)
        return future.result() if future.done() else future

    async def close(self) -> None:
        """End vnic-wire, after the network was closed."""
        if self._engine is not None:
            self._engine.close()
            await self._engine.program.wait_ended()


async def _both(first: asyncio.Future[None], second: asyncio.Future[None]) -> None:
    await first
    await second


def _entry(client: NetClient, stats: PortStats) -> WireStats:
    drops = WireDrops(**{name: getattr(stats, name) for name in stats.causes})
    return WireStats(
        client.name,
        client.record_type,
        stats.frames_in,
        stats.bytes_in,
        stats.frames_out,
        stats.bytes_out,
        drops,
    )

"""Carries a rehearsal out: starts probes and captures, fails and mends the target, and has each run measured.

`verb` calls `rehearse`. Whatever ends it, what it made in the lab is removed, and the target is mended.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import random
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from vnic.cli.client import Refused, Session
from vnic.lab.file.problems import meant
from vnic.lab.live.place import Place, Record
from vnic.lab.live.vnic import session_with
from vnic.lab.rehearse.addresses import SCRIPT, Address, choose, parse, sockaddr
from vnic.lab.rehearse.guest import NAME, Probe, program
from vnic.lab.rehearse.log import PORT
from vnic.lab.rehearse.measure import LEAD_US, Trace, Window, measure
from vnic.lab.rehearse.paths import Paths
from vnic.lab.rehearse.pcap import CAPTURED_BYTES, TOKEN_BYTES, sightings
from vnic.lab.rehearse.records import Event, EventWord, How, NicSteps, Point, Run
from vnic.lab.rehearse.target import Change, Target, ends_of

DUMP_PREFIX: Final = "vnic-rehearse-"
"""Ids of the captures' objects, also of those that a killed rehearsal left."""
START_TIMEOUT_MS: Final = 30_000
"""For probes to come before anything is pulled; as long as an outage may last, if that is longer."""
READ_INTERVAL_S: Final = 0.2
LOG_DELAY_S: Final = 0.3
"""A log is behind by less (LINES_US of program/probe.c)."""
SCATTER_S: Final = 0.2
"""Each pull comes at a random moment of this time, for timers of the guests to be met in all their phases."""
CLOCK_STEP_S: Final = 0.001
CLOCK_SLEW: Final = 0.001
"""adjtimex(2) lets the wall clock go faster or slower by at most this part; a step is more."""
CLOCK_TRIES: Final = 3


class Wish(msgspec.Struct, kw_only=True):
    """What is to be rehearsed, as the command line has it."""

    fail: list[str]
    between: tuple[str, str]
    how: How = "pull"
    repeat: int = 1
    interval_us: int = 1000
    settle_ms: int = 1000
    timeout_ms: int = 30_000
    captures: str | None = None
    """The folder that captures stay in."""


class ClockSet(Exception):
    """The wall clock was set during a run: captures and journal do not fit together."""


Tell = Callable[[Run], None]


class Done(NamedTuple):
    """An event that was carried out."""

    event: EventWord
    change: Change
    steps: list[NicSteps]
    converged: list[bool]
    """By direction."""


async def rehearse(
    place: Place, record: Record, wish: Wish, tell: Tell, say: Callable[[str], None]
) -> list[Point]:
    """Measure all runs, `tell` of each; the two points. Refused says why that cannot be done, `say` what remains."""
    program()
    nodes = [_node(record, word) for word in wish.between]
    if nodes[0] == nodes[1]:
        raise Refused("--between: two nodes are expected")
    names = ends_of(record.lab, wish.fail)
    with _lock(place):
        async with session_with(place) as qmp:
            target = Target(names, wish.how)
            await _remove_dumps(qmp)
            await target.check(qmp)
            rehearsal = _Rehearsal(place, record, wish, qmp, target, nodes, say)
            try:
                points = await rehearsal.start()
                for number in range(1, wish.repeat + 1):
                    tell(await rehearsal.run(number))
            finally:
                await rehearsal.end()
    return points


@contextlib.contextmanager
def _lock(place: Place) -> Iterator[None]:
    """One rehearsal at a time in a lab."""
    with (place.folder / "rehearse.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another rehearsal goes on in lab '{place.name}'") from None
        yield


def _node(record: Record, word: str) -> str:
    """A guest of vnic's own."""
    name = word.partition("@")[0]
    node = record.lab.nodes.get(name)
    if node is None:
        raise Refused(
            f"--between: lab '{record.lab.name}' has no node '{name}'{meant(name, record.lab.nodes)}"
        )
    if not node.built_in:
        raise Refused(
            f"--between: node '{name}' is none of vnic's own guests (uml, qemu without an image): no probes there"
        )
    return name


def _address(word: str) -> Address | None:
    """Of NODE@ADDRESS."""
    text = word.partition("@")[2]
    if not text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise Refused(f"--between: '{text}' is no IP address") from None


async def _remove_dumps(qmp: Session) -> None:
    for each in await qmp.execute("qom-list", path="/objects"):
        if str(each["name"]).startswith(DUMP_PREFIX):
            await qmp.execute("object-del", id=each["name"])


def _clock_offset() -> float:
    return time.time() - time.monotonic()


class _Rehearsal:
    """One that goes on."""

    def __init__(
        self,
        place: Place,
        record: Record,
        wish: Wish,
        qmp: Session,
        target: Target,
        nodes: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self._place = place
        self._record = record
        self._wish = wish
        self._qmp = qmp
        self._target = target
        self._paths = Paths(record.lab)
        self._tokens = [secrets.token_bytes(TOKEN_BYTES) for _ in nodes]
        name = f"{NAME}{secrets.token_hex(4)}"
        self._probes = [Probe(place, node, f"{name}-{node}") for node in nodes]
        self._nodes = nodes
        self._addresses: list[Address] = []
        self._scratch = place.folder / "rehearse"
        self._folder = self._scratch if wish.captures is None else Path(wish.captures).absolute()
        self._touched = False
        self._say = say

    # -- begin and end ------------------------------------------------------------------------------------------

    async def start(self) -> list[Point]:
        """Start the probes; returns when they come."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._addresses = await self._choose_addresses()
        ends = [sockaddr(each, PORT) for each in self._addresses]
        await asyncio.gather(*(asyncio.to_thread(probe.put) for probe in self._probes))
        for index, probe in enumerate(self._probes):
            far = 1 - index
            await asyncio.to_thread(
                probe.start,
                self._wish.interval_us,
                *(self._tokens[index], self._tokens[far], ends[index], ends[far]),
            )
        await self._require()
        pairs = zip(self._nodes, self._addresses, strict=True)
        return [Point(node=node, address=str(address)) for node, address in pairs]

    async def _choose_addresses(self) -> list[Address]:
        given = [_address(word) for word in self._wish.between]
        had = []
        for node, probe, address in zip(self._nodes, self._probes, given, strict=True):
            nics = {end.interface for end, _ in self._paths.nics.values() if end.node == node}
            found = parse(await asyncio.to_thread(probe.ask, SCRIPT), nics)
            if address is not None:
                found = [each for each in found if each.address.ip == address]
                if not found:
                    raise Refused(f"--between: node '{node}' has no address {address}")
            had.append(found)
        chosen = choose(*had)
        if chosen is None:
            raise Refused(
                f"{' and '.join(self._nodes)} have no addresses of one family: name some, NODE@ADDRESS"
            )
        return list(chosen)

    async def end(self) -> None:
        """Leave the lab as it was."""
        with contextlib.suppress(Refused):
            async with session_with(
                self._place
            ) as qmp:  # a command may have been broken off in the other one
                if self._touched:
                    await self._target.mend(qmp)
                await _remove_dumps(qmp)
        for probe in self._probes:
            with contextlib.suppress(Refused, OSError):
                await asyncio.to_thread(probe.stop)
        shutil.rmtree(self._scratch, ignore_errors=True)

    # -- runs ---------------------------------------------------------------------------------------------------

    async def run(self, number: int) -> Run:
        """One pull and its end. Measured again where the clock was set meanwhile."""
        for _ in range(CLOCK_TRIES):
            try:
                return await self._run(number)
            except ClockSet:
                continue
        raise Refused("the wall clock of this machine is set again and again: no times can be compared")

    async def _run(self, number: int) -> Run:
        offset, started = _clock_offset(), time.monotonic()
        async with self._captures(number) as files:
            await self._require()
            await asyncio.sleep(LEAD_US / 1e6 + random.uniform(0, SCATTER_S))
            down = await self._event("down")
            up = await self._event("up")
            ended = time.time_ns() // 1000
        await asyncio.sleep(LOG_DELAY_S)
        await self._read()
        moved = abs(_clock_offset() - offset)
        if moved > CLOCK_STEP_S + CLOCK_SLEW * (time.monotonic() - started):
            raise ClockSet
        windows = Window(down.change.time_us, up.change.time_us), Window(up.change.time_us, ended)
        return await asyncio.to_thread(self._measure, number, files, (down, up), windows)

    async def _event(self, event: EventWord) -> Done:
        """Fail or mend the target, and wait until probes come in both directions."""
        self._touched = True
        change = await self._target.set(self._qmp, event)
        await asyncio.sleep(self._wish.settle_ms / 1000 + LOG_DELAY_S)
        converged = await self._steady(self._wish.timeout_ms)
        return Done(event, change, await change.steps(self._qmp, event), converged)

    async def _read(self) -> None:
        for probe in self._probes:
            await asyncio.to_thread(probe.read)

    async def _steady(self, timeout_ms: int) -> list[bool]:
        """Wait until all that is sent comes; whether it does, by direction, when it does or the time is up."""
        until = time.monotonic() + timeout_ms / 1000
        while True:
            await self._read()
            steady = [probe.log.is_steady(self._wish.settle_ms * 1000) for probe in reversed(self._probes)]
            if all(steady) or time.monotonic() > until:
                return steady
            await asyncio.sleep(READ_INTERVAL_S)

    async def _require(self) -> None:
        """Wait until probes come. Refused if they do not, before anything is done."""
        timeout_ms = max(self._wish.timeout_ms, START_TIMEOUT_MS)
        for index, is_steady in enumerate(await self._steady(timeout_ms)):
            if is_steady:
                continue
            far = 1 - index
            word = "come with holes" if self._probes[far].log.received else "do not come"
            raise Refused(
                f"probes from {self._nodes[index]} ({self._addresses[index]}) to {self._nodes[far]}"
                f" ({self._addresses[far]}) {word} for {timeout_ms / 1000:g} s, and nothing is pulled:"
                " name other addresses, NODE@ADDRESS, or look at the routes"
            )

    # -- captures -----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _captures(self, number: int) -> AsyncIterator[dict[str, Path]]:
        """Files with all that passes the lab's NICs meanwhile, by NIC."""
        files = {nic: self._folder / f"run-{number}-{nic}.pcap" for nic in self._paths.nics}
        for index, (nic, file) in enumerate(files.items()):
            options = {
                "qom-type": "filter-dump",
                "id": f"{DUMP_PREFIX}{index}",
                "netdev": self._record.plan.nics[nic]["netdev"],
                "file": str(file),
                "maxlen": CAPTURED_BYTES,
            }
            await self._qmp.execute_with("object-add", options)
        yield files
        await _remove_dumps(self._qmp)

    def _measure(
        self, number: int, files: dict[str, Path], done: Sequence[Done], windows: Sequence[Window]
    ) -> Run:
        logs = [probe.log for probe in self._probes]
        traces = []
        for source, far in ((0, 1), (1, 0)):
            traces.append(
                Trace(
                    self._nodes[source],
                    self._nodes[far],
                    self._paths,
                    self._wish.interval_us,
                    list(logs[far].numbers()),
                    logs[source].pauses,
                    logs[source].progress,
                )
            )
        for nic, file in files.items():
            for sighting in sightings(file, self._tokens):
                traces[sighting.token].add(nic, sighting)
            if self._wish.captures is None:
                file.unlink()
        for trace in traces:
            trace.sort()
            if not trace.arrivals:
                raise Refused(f"the probes to {trace.target} are at none of its NICs in this lab")
        events = []
        were_out = [False for _ in traces]
        for each, window in zip(done, windows, strict=True):
            directions = [
                measure(trace, window, converged=converged, was_out=was_out)
                for trace, converged, was_out in zip(traces, each.converged, were_out, strict=True)
            ]
            were_out = [not converged for converged in each.converged]
            events.append(
                Event(
                    event=each.event,
                    time=each.change.time,
                    change_id=each.change.id,
                    cause=each.change.cause,
                    nics=each.steps,
                    directions=directions,
                )
            )
        return Run(number=number, events=events)

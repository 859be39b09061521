"""WireEngine: which ends are at vnic-wire, in which wires. `net.wire` tells it what to carry; the machine makes it.

It keeps the ports and wires of the running program as they should be, hands all over anew after the program died, and
gives each end back to Python when it is no longer carried.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial

from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import (
    ALL_PORTS,
    MAX_QUEUES,
    STATS_PORTS,
    Direction,
    Dump,
    DumpFailed,
    Event,
    FrameReturned,
    GetStats,
    Log,
    PortLost,
    Reply,
    RingBroken,
    WireSet,
)
from vnic.dataplane.wire.ports import LentPort, Numbers
from vnic.dataplane.wire.process import WireProgram
from vnic.dataplane.wire.replies import PortStats, Stats
from vnic.dataplane.wire.rings import RingPort, SharedMemoryCheck, missing_features
from vnic.net.client import NetClient
from vnic.net.filters import DumpTarget
from vnic.net.lending import Lender, LentEnd
from vnic.net.wire import DumpAt, Segment, Wires
from vnic.nic.virtio_net.device import VirtioNet
from vnic.virtio.queue import QueueError

log = logging.getLogger("vnic.wire")

Port = LentPort | RingPort
StatsDone = Callable[[list[tuple[NetClient, PortStats]]], None]


class WireEngine:
    """The engine of one machine (`net.wire.WireEngine`)."""

    active = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wires: Wires,
        command: Sequence[str],
        *,
        workers: int = 1,
        spin_us: int = 0,
    ) -> None:
        self._loop = loop
        self._wires = wires
        self.program = WireProgram(loop, command, self, workers=workers, spin_us=spin_us)
        self._ports: dict[NetClient, Port] = {}
        self._clients: dict[int, NetClient] = {}
        """By port number."""
        self._numbers = Numbers()
        self._members: dict[int, dict[NetClient, None]] = {}
        """By wire number."""
        self._wire_of: dict[NetClient, int] = {}
        self._wire_numbers = Numbers()
        self._dumps: dict[NetClient, dict[int, DumpAt]] = {}
        self._dump_numbers = Numbers()
        self._refused: dict[NetClient, tuple[object, str]] = {}
        """Ends that the program did not take, and what has to change before it is asked again."""
        self._memory: dict[NetClient, SharedMemoryCheck] = {}
        self._waiting: dict[NetClient, None] = {}
        """Clients that wait for the program to run."""
        self._asked: list[StatsDone] = []
        """Who waits for statistics."""
        self.borrowing: set[RingPort] = set()
        self._leaving: dict[LentPort, asyncio.Future[None]] = {}
        """Ports whose descriptors the program has been asked to return."""

    @property
    def unavailable(self) -> str:
        return self.program.refusal

    # -- net.wire.WireEngine --------------------------------------------------------------------------------------

    def refusal(self, client: NetClient, end: LentEnd) -> str:
        if self.program.refusal:
            if self.program.will_run:
                self._waiting[client] = None
            return self.program.refusal
        refused = self._refused.get(client)
        if refused is not None:
            if refused[0] == _token(end):
                return refused[1]
            del self._refused[client]
        if client.queues > MAX_QUEUES:
            return f"more than {MAX_QUEUES} queues"
        if isinstance(end, VirtioNet):
            check = self._memory.get(client)
            if check is None:
                check = self._memory[client] = SharedMemoryCheck()
            hello = self.program.hello
            return check.refusal(end) or (missing_features(end, hello) if hello is not None else "")
        return ""

    def carry(self, segment: Segment) -> bool:
        self.program.start()
        clients = [client for client, _ in segment.ends]
        if not self.program.running:
            self._waiting.update(dict.fromkeys(clients))
            return False
        ready = [self._prepare(client, end) for client, end in segment.ends]  # all of them begin
        if not all(ready):
            return False
        if not all(map(self._is_lent, clients)) and any(member.has_waiting for member in segment.members):
            return False  # `drained` follows, and then no frame is left behind
        for client, end in segment.ends:
            if isinstance(end, Lender) and client not in self._ports and not self._lend(client, end):
                return False
        for client in clients:
            port = self._ports[client]
            if isinstance(port, RingPort) and not port.carries:
                port.carry()
            self._set_dumps(client, port, segment.dumps.get(client, []))
        if all(self._ports[client].started for client in clients):
            self._join(clients)  # else in the next call: a frame must not come before the rings
        return True

    def release(self, client: NetClient) -> None:
        port = self._ports.get(client)
        if port is None:
            self._memory.pop(client, None)
            return
        if isinstance(port, LentPort):
            self._leaving[port] = self._loop.create_future()
            port.remove(
                partial(self._left, port)
            )  # before its wire ends, for a port without a wire drops frames
        self._leave(client)
        self._forget(client, port)
        if isinstance(port, RingPort):
            port.remove()

    def _left(self, port: LentPort) -> None:
        self._numbers.free(port.number)
        self._leaving.pop(port).set_result(None)
        self._wires.changed(port.client)

    def leaving(self) -> asyncio.Future[None] | None:
        """Done when the program has no descriptor any more that it was asked to return; None: so it is."""
        return self._loop.create_task(_all_done(list(self._leaving.values()))) if self._leaving else None

    def _is_lent(self, client: NetClient) -> bool:
        port = self._ports.get(client)
        return isinstance(port, LentPort) or (port is not None and port.carries)

    # -- ports --------------------------------------------------------------------------------------------------

    def _prepare(self, client: NetClient, end: LentEnd) -> bool:
        """Whether this end can join a wire now; if not, `Wires.changed` follows."""
        port = self._ports.get(client)
        if port is not None and port.end is not end:
            self.release(client)
            port = None
        if isinstance(end, VirtioNet):
            if port is None:
                assert self.program.hello is not None
                try:
                    port = RingPort(
                        self._loop,
                        self.program.channel,
                        self._numbers.take(),
                        client,
                        end,
                        self,
                        self._freer(),
                        self.program.hello,
                    )
                except OSError as error:
                    self._refused[client] = (_token(end), f"vnic-wire: {error.strerror}")
                    self._wires.changed(client)
                    return False
                self._add(client, port)
            return True
        assert isinstance(end, Lender)
        if port is not None:
            return True
        if any(leaving.end is end for leaving in self._leaving):
            return False  # the program has not returned it yet; `_left` follows
        return end.can_lend(lambda: self._wires.changed(client))

    def _lend(self, client: NetClient, end: Lender) -> bool:
        number = self._numbers.take()
        try:
            port = LentPort(self.program.channel, number, client, end, self._refuser(client))
        except OSError as error:
            self._numbers.free(number)
            self._refused[client] = (_token(end), f"vnic-wire: {error.strerror or error}")
            self._wires.changed(client)
            return False
        self._add(client, port)
        return True

    def _add(self, client: NetClient, port: Port) -> None:
        self._ports[client] = port
        self._clients[port.number] = client

    def _forget(self, client: NetClient, port: Port) -> None:
        del self._ports[client]
        del self._clients[port.number]
        for number in self._dumps.pop(client, {}):
            self._dump_numbers.free(number)

    def _freer(self) -> Callable[[int, int | None], None]:
        """What takes numbers back from a port of this run of the program."""
        numbers = self._numbers

        def freed(number: int, parked_in: int | None = None) -> None:
            """The program has removed the port, or will before any later request."""
            if numbers is self._numbers:
                numbers.free(number)
                if parked_in is not None:
                    self.program.request(WireSet(parked_in, ()), answered=_check)
                    self._wire_numbers.free(parked_in)

        return freed

    def _refuser(self, client: NetClient) -> Callable[[str], None]:
        def refused(reason: str) -> None:
            port = self._ports.get(client)
            if port is not None:
                self._refuse(client, port, reason)

        return refused

    def _refuse(self, client: NetClient, port: Port, reason: str) -> None:
        """The program does not take this end: Python goes on with it until something changes."""
        log.warning("%s: vnic-wire: %s; Python moves its packets", client.name, reason)
        self._refused[client] = (_token(port.end), f"vnic-wire: {reason}")
        self.release(client)
        self._wires.changed(client)

    # -- RingPortUser -------------------------------------------------------------------------------------------

    def ring_port_changed(self, port: RingPort) -> None:
        self._wires.changed(port.client)

    def ring_port_failed(self, port: RingPort, reason: str) -> None:
        if self._ports.get(port.client) is port:
            self._leave(port.client)
            self._forget(port.client, port)
            # If the program died, `program_gone` follows, and all of this is tried again.
            self._refused[port.client] = (_token(port.device), f"vnic-wire: {reason}")
            log.info("%s: vnic-wire: %s; Python moves its packets", port.client.name, reason)
        port.drop()
        self._wires.changed(port.client)

    # -- wires --------------------------------------------------------------------------------------------------

    def _join(self, clients: Sequence[NetClient]) -> None:
        """Make these, and no others, the members of one wire."""
        wanted = dict.fromkeys(clients)
        number = next((self._wire_of[client] for client in clients if client in self._wire_of), None)
        if number is not None and self._members[number] == wanted:
            return
        for client in clients:
            if self._wire_of.get(client, number) != number:
                self._leave(client)
        if number is None:
            number = self._wire_numbers.take()
        for client in self._members.get(number, {}):
            if client not in wanted:
                del self._wire_of[client]
        self._members[number] = wanted
        self._wire_of.update(dict.fromkeys(clients, number))
        self._set_wire(number)

    def _leave(self, client: NetClient) -> None:
        """The client's port leaves its wire: the program moves it out, and one that is left alone sends nothing until
        it has a new wire."""
        number = self._wire_of.pop(client, None)
        if number is None:
            return
        members = self._members[number]
        del members[client]
        port = self._ports[client]
        if isinstance(port, RingPort) and self.program.running:
            # In a wire of its own it sends nothing while its rings are on their way back.
            port.parked_in = self._wire_numbers.take()
            self.program.request(WireSet(port.parked_in, (port.number,)), answered=_check)
        if not members:
            self._set_wire(number)

    def _set_wire(self, number: int) -> None:
        members = self._members[number]
        ports = tuple(self._ports[client].number for client in members)
        self.program.request(WireSet(number, ports), answered=_check)
        if not members:
            del self._members[number]
            self._wire_numbers.free(number)

    # -- dumps --------------------------------------------------------------------------------------------------

    def _set_dumps(self, client: NetClient, port: Port, wanted: Sequence[DumpAt]) -> None:
        """Have the program write these pcap files, and no others, at the port."""
        present = self._dumps.setdefault(client, {})
        for number, dump in list(present.items()):
            if dump not in wanted:
                self.program.request(Dump(port.number, number))
                self._dump_numbers.free(number)
                del present[number]
        for dump in wanted:
            if dump not in present.values():
                number = self._dump_numbers.take()
                present[number] = dump
                direction = (Direction.TX if dump.inward else 0) | (Direction.RX if dump.outward else 0)
                request = Dump(port.number, number, dump.target.snaplen, Direction(direction))
                self.program.request(request, (dump.target.fileno(),))
        if not present:
            del self._dumps[client]

    def _dump_of(self, number: int) -> DumpTarget | None:
        return next((dumps[number].target for dumps in self._dumps.values() if number in dumps), None)

    # -- ProgramUser --------------------------------------------------------------------------------------------

    def program_ready(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for client in waiting:
            self._wires.changed(client)

    def program_gone(self) -> None:
        ports = list(self._ports.items())
        self._ports.clear()
        self._clients.clear()
        self._members.clear()
        self._wire_of.clear()
        self._dumps.clear()
        refused, self._refused = self._refused, {}
        self._numbers, self._wire_numbers, self._dump_numbers = Numbers(), Numbers(), Numbers()
        leaving, self._leaving = self._leaving, {}
        for leaving_port, future in leaving.items():
            leaving_port.take_back()
            future.set_result(None)
        for borrowing in list(self.borrowing):
            borrowing.return_doorbell()
        for client in refused:
            self._wires.changed(client)
        asked, self._asked = self._asked, []
        for done in asked:
            done([])
        for client, port in ports:
            if isinstance(port, LentPort):
                port.take_back()
            else:
                port.drop()
            self._wires.changed(client)
        self.program_ready()  # those that wait learn why they do

    def happened(self, event: Event) -> None:
        match event:
            case Log(level, text):
                log.log(min(max(level, logging.DEBUG), logging.ERROR), "vnic-wire: %s", text)
            case PortLost(number, _, _):
                self._port_lost(number)
            case RingBroken(number, ring, text):
                client = self._clients.get(number)
                port = self._ports.get(client) if client is not None else None
                if isinstance(port, RingPort) and ring < len(port.device.queues):
                    queue = port.device.queues[ring]
                    if queue.ready:
                        port.device.queue_failed(queue, QueueError(text))
                        port.device.client.path_changed()
            case DumpFailed(number, error):
                target = self._dump_of(number)
                if target is not None:
                    target.failed(os.strerror(error))
            case FrameReturned(number, _, _, _):
                for leaving in self._leaving:
                    if leaving.number == number:
                        leaving.returned(event)

    def _port_lost(self, number: int) -> None:
        """The netdev's descriptor has failed: the netdev finds the same when it has it back."""
        client = self._clients.get(number)
        if client is not None:
            port = self._ports[client]
            self._refused[client] = (_token(port.end), "its descriptor has failed")
            self.release(client)
            self._wires.changed(client)

    # -- statistics and the end -----------------------------------------------------------------------------------

    def stats(self, done: StatsDone) -> None:
        """Ask for the counters of all ports; `done` gets those of the clients that are there now. It is called at
        once if no program runs, and with none if it dies."""
        found: list[tuple[NetClient, PortStats]] = []
        if not self.program.running:
            done(found)
            return
        self._asked.append(done)

        def answered(reply: Reply) -> None:
            try:
                ports = Stats.parse(reply.data).ports if not reply.error else ()
            except MessageError as error:
                log.warning("statistics of vnic-wire: %s", error)
                ports = ()
            for each in ports:
                client = self._clients.get(each.port)
                if client is not None:
                    found.append((client, each))
            if len(ports) == STATS_PORTS:
                self.program.request(GetStats(ALL_PORTS, ports[-1].port + 1), answered=answered)
            else:
                self._asked.remove(done)
                done(found)

        self.program.request(GetStats(), answered=answered)

    def close(self) -> None:
        """End the program. Call it when the network is closed."""
        self.program.close()


async def _all_done(futures: Sequence[asyncio.Future[None]]) -> None:
    for each in futures:
        await each


def _check(reply: Reply) -> None:
    """For requests that are only refused by a mistake of this program or the other."""
    if reply.error:
        log.error("vnic-wire refused a request: %s", reply.data.decode(errors="replace"))


def _token(end: LentEnd) -> object:
    """What is different when it is worth to ask the program again."""
    if isinstance(end, VirtioNet):
        memory = end.memory
        return id(memory), memory.generation, end.driver_features
    return end

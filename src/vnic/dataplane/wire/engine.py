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
from typing import TYPE_CHECKING, Final

from vnic.dataplane.wire.dumps import Dumps
from vnic.dataplane.wire.impairments import Impairments
from vnic.dataplane.wire.kept_ports import KeptPorts
from vnic.dataplane.wire.members import Members, Port
from vnic.dataplane.wire.messages import (
    MAX_QUEUES,
    DumpFailed,
    Event,
    FrameReturned,
    Log,
    PortLost,
    RingBroken,
)
from vnic.dataplane.wire.ports import LentPort, Numbers, ResidentPort
from vnic.dataplane.wire.process import WireProgram
from vnic.dataplane.wire.rings import RingPort, SharedMemoryCheck, missing_features
from vnic.dataplane.wire.statistics import Statistics, StatsDone
from vnic.dataplane.wire.tunnel_messages import CcmState, FrameReceived, TunnelTrouble
from vnic.keep import NO_KEEP, Keep
from vnic.net.client import NetClient
from vnic.net.lending import Lender, LentEnd, ResidentEnd
from vnic.net.wire import Segment, Wires, is_up
from vnic.nic.virtio_net.device import VirtioNet
from vnic.virtio.queue import QueueError

if TYPE_CHECKING:
    from vnic.dataplane.wire.tunnels import Tunnels

log = logging.getLogger("vnic.wire")

LEFT_LINES_S: Final = 2.0
"""How long frames under way in a netem wait for the port that follows after a restart."""


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
        keep: Keep = NO_KEEP,
    ) -> None:
        self._loop = loop
        self._wires = wires
        self.program = WireProgram(loop, command, self, workers=workers, spin_us=spin_us, keep=keep)
        self._ports: dict[NetClient, Port] = {}
        self._clients: dict[int, NetClient] = {}
        """By port number."""
        self._numbers = Numbers()
        self._members = Members(self.program, self._ports)
        self._dumps = Dumps(self.program)
        self.impairments = Impairments(self.program, wires.changed, lambda number: self._kept.changed(number))
        self._kept = KeptPorts(keep, self.program, self.impairments.records)
        self._refused: dict[NetClient, tuple[object, str]] = {}
        """Ends that the program did not take, and what has to change before it is asked again."""
        self._memory: dict[NetClient, SharedMemoryCheck] = {}
        self._waiting: dict[NetClient, None] = {}
        """Clients that wait for the program to run."""
        self.borrowing: set[RingPort] = set()
        self._statistics = Statistics(self.program, self._clients)
        self._leaving: dict[LentPort, asyncio.Future[None]] = {}
        """Ports whose descriptors the program has been asked to return."""
        self._tunnels: Tunnels | None = None
        """None: there was none yet."""

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
        if isinstance(end, ResidentEnd):
            return self._tunnels.refusal(client) if self._tunnels is not None else ""
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
        if not all(map(self.impairments.ready, segment.impairs.values())):
            return False
        for client, end in segment.ends:
            if isinstance(end, Lender) and client not in self._ports and not self._lend(client, end):
                return False
        for client in clients:
            port = self._ports[client]
            if isinstance(port, RingPort) and not port.carries:
                port.carry()
            self._dumps.set(client, port.number, segment.dumps.get(client, []))
            self.impairments.set(client, port.number, segment.impairs.get(client, []))
        if all(self._ports[client].started for client in clients):
            self._members.join(clients)  # else in the next call: a frame must not come before the rings
            for client in clients:
                port = self._ports[client]
                if isinstance(port, ResidentPort):
                    port.to_control(False)
        return True

    def release(self, client: NetClient) -> None:
        port = self._ports.get(client)
        if port is None:
            self._memory.pop(client, None)
            return
        if isinstance(port, ResidentPort):  # it stays, for its continuity checks
            port.to_control(is_up(client))
            self._members.leave(client)
            self.impairments.end(client)
            self._dumps.set(client, port.number, [])  # Python writes them now
            return
        if isinstance(port, LentPort):
            self._leaving[port] = self._loop.create_future()
            if self.impairments.present(client):
                # No frame may pass between the end of its impairments and its own.
                self._members.leave(client, park=True)
                self.impairments.end(client)
            # Before its wire ends, for a port without a wire drops frames.
            port.remove(partial(self._left, port))
        self._members.leave(client)
        self.impairments.end(client)
        self._forget(client, port)
        if isinstance(port, RingPort):
            port.remove()

    def _left(self, port: LentPort) -> None:
        self._freer()(port.number, port.parked_in)
        self._kept.commit()  # before the netdev reads or writes
        self._leaving.pop(port).set_result(None)
        self._wires.changed(port.client)

    def leaving(self) -> asyncio.Future[None] | None:
        """Done when the program has no descriptor any more that it was asked to return; None: so it is."""
        futures = [*self._leaving.values(), *(self._tunnels.leaving if self._tunnels is not None else ())]
        return self._loop.create_task(_all_done(futures)) if futures else None

    def _is_lent(self, client: NetClient) -> bool:
        port = self._ports.get(client)
        return isinstance(port, LentPort) or (port is not None and port.carries)

    # -- tunnels (PortHost) ---------------------------------------------------------------------------------------

    def keep(self, client: NetClient, end: ResidentEnd) -> None:
        if self._tunnels is None:
            from vnic.dataplane.wire.tunnels import Tunnels  # a start without tunnels does without

            self._tunnels = Tunnels(self._loop, self.program, self)
        self._tunnels.keep(client, end)

    def drop(self, client: NetClient) -> None:
        if self._tunnels is not None:
            self._tunnels.drop(client)

    def take_number(self) -> int:
        return self._numbers.take()

    def free_number(self, number: int) -> None:
        self._numbers.free(number)
        self._kept.end(number)

    def port_came(self, port: ResidentPort) -> None:
        self._add(port.client, port)
        port.to_control(is_up(port.client))
        self._wires.changed(port.client)

    def port_goes(self, port: ResidentPort) -> None:
        self._members.leave(port.client)
        self.impairments.end(port.client)
        self._forget(port.client, port)
        self._wires.changed(port.client)

    def port_invites(self, port: ResidentPort) -> None:
        if port.client not in self._members:
            port.to_control(True)  # its wire is chosen in a later turn

    def refresh_tunnels(self, done: Callable[[], None]) -> None:
        """Bring the counters of the tunnels up to date."""
        if self._tunnels is None:
            done()
        else:
            self._tunnels.refresh(done)

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
                number = self._numbers.take()
                try:
                    port = RingPort(
                        self._loop,
                        self.program.channel,
                        number,
                        client,
                        end,
                        self,
                        self._freer(),
                        self.program.hello,
                    )
                except OSError as error:
                    self._numbers.free(number)
                    self._refused[client] = (_token(end), f"vnic-wire: {error.strerror}")
                    self._wires.changed(client)
                    return False
                self._add(client, port)
            return True
        if isinstance(port, ResidentPort) and client not in self._members:
            port.to_control(True)  # until it is in a wire: no frame is lost meanwhile
        if port is not None or not isinstance(end, Lender):
            return port is not None
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
        self._kept.add(port)

    def _forget(self, client: NetClient, port: Port) -> None:
        del self._ports[client]
        del self._clients[port.number]
        self._dumps.forget(client)

    def _freer(self) -> Callable[[int, int | None], None]:
        """What takes numbers back from a port of this run of the program."""
        numbers = self._numbers

        def freed(number: int, parked_in: int | None = None) -> None:
            """The program has removed the port, or will before any later request."""
            if numbers is self._numbers:
                self._kept.end(number)
                numbers.free(number)
                if parked_in is not None:
                    self._members.unpark(parked_in)

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
            self._members.leave(port.client)
            self.impairments.end(port.client)
            self._forget(port.client, port)
            # If the program died, `program_gone` follows, and all of this is tried again.
            self._refused[port.client] = (_token(port.device), f"vnic-wire: {reason}")
            log.info("%s: vnic-wire: %s; Python moves its packets", port.client.name, reason)
        port.drop()
        self._wires.changed(port.client)

    # -- ProgramUser --------------------------------------------------------------------------------------------

    def program_ready(self) -> None:
        if self._tunnels is not None and self.program.running:
            self._tunnels.program_ready()
        waiting, self._waiting = self._waiting, {}
        for client in waiting:
            self._wires.changed(client)

    def program_gone(self) -> None:
        ports = list(self._ports.items())
        self._ports.clear()
        self._clients.clear()
        self._kept.end_all()
        self._members = Members(self.program, self._ports)
        self._dumps = Dumps(self.program)
        self.impairments.gone()
        refused, self._refused = self._refused, {}
        self._numbers = Numbers()
        leaving, self._leaving = self._leaving, {}
        for leaving_port, future in leaving.items():
            leaving_port.take_back()
            future.set_result(None)
        for borrowing in list(self.borrowing):
            borrowing.return_doorbell()
        for client in refused:
            self._wires.changed(client)
        self._statistics.program_gone()
        for client, port in ports:
            if isinstance(port, LentPort):
                port.take_back()
            if isinstance(port, RingPort):
                port.drop()
            self._wires.changed(client)
        if self._tunnels is not None:
            self._tunnels.program_gone()
        self.program_ready()  # those that wait learn why they do

    def happened(self, event: Event) -> None:
        match event:
            case Log(level, text):
                log.log(min(max(level, logging.DEBUG), logging.ERROR), "vnic-wire: %s", text)
            case PortLost(number, error, _):
                self._port_lost(number, error)
            case CcmState(number) | FrameReceived(number) | TunnelTrouble(number):
                port = self._ports.get(self._clients[number]) if number in self._clients else None
                if isinstance(port, ResidentPort):
                    port.happened(event)
                    self._kept.changed(number)
            case RingBroken(number, ring, text):
                client = self._clients.get(number)
                port = self._ports.get(client) if client is not None else None
                if isinstance(port, RingPort) and ring < len(port.device.queues):
                    queue = port.device.queues[ring]
                    if queue.ready:
                        port.device.queue_failed(queue, QueueError(text))
                        port.device.client.path_changed()
            case DumpFailed(number, error):
                self._dumps.failed(number, os.strerror(error))
            case FrameReturned(number, _, _, _):
                for leaving in self._leaving:
                    if leaving.number == number:
                        leaving.returned(event)

    def _port_lost(self, number: int, error: int) -> None:
        """The netdev's descriptor has failed: the netdev finds the same when it has it back."""
        client = self._clients.get(number)
        if client is not None:
            port = self._ports[client]
            if isinstance(port, ResidentPort):
                port.lost(error)
                return
            self._refused[client] = (_token(port.end), "its descriptor has failed")
            self.release(client)
            self._wires.changed(client)

    # -- statistics and the end -----------------------------------------------------------------------------------

    def stats(self, done: StatsDone) -> None:
        """Ask for the counters of all ports; `done` gets those of the clients that are there now. It is called at
        once if no program runs, and with none if it dies."""
        self._statistics.ask(done)

    def count_impaired(self, done: Callable[[], object]) -> None:
        """Have the counters of impairments be up to date, then call `done`."""
        if self.program.running:
            self.impairments.count(done)
        else:
            done()

    def adopt(self) -> None:
        """Go on with the program of the process before: all else is restored."""
        self.program.adopt()
        if self.program.running:
            self._loop.call_later(LEFT_LINES_S, self.impairments.drop_left)

    def close(self) -> None:
        """End the program. Call it when the network is closed."""
        self.program.close()


async def _all_done(futures: Sequence[asyncio.Future[None]]) -> None:
    for each in futures:
        await each


def _token(end: LentEnd) -> object:
    """What is different when it is worth to ask the program again."""
    if isinstance(end, VirtioNet):
        memory = end.memory
        return id(memory), memory.generation, end.driver_features
    return end

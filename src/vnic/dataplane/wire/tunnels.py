"""Tunnels at vnic-wire: it has their sockets whenever it runs, makes and judges their CCMs, and returns their state.

`engine` has one Tunnels. A tunnel's port is there also while its link is down, or while Python moves the packets of its
wire: then the frames come to this process, and go out there one by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from vnic.backend.tunnel.info import SocketCounters
from vnic.backend.tunnel.port import TunnelPort
from vnic.backend.tunnel.sockets import SharedSocket
from vnic.dataplane.wire.messages import Reply
from vnic.dataplane.wire.ports import Numbers, ResidentPort
from vnic.dataplane.wire.process import WireProgram
from vnic.dataplane.wire.tunnel_messages import (
    GetSocketStats,
    SocketAdd,
    SocketRemove,
    SocketStats,
    TunnelState,
)
from vnic.dataplane.wire.tunnel_port import TunnelAtWire
from vnic.net.client import NetClient
from vnic.net.lending import ResidentEnd

log = logging.getLogger("vnic.wire")


class PortHost(Protocol):
    """The engine, which numbers the ports and has them in wires."""

    def take_number(self) -> int: ...

    def free_number(self, number: int) -> None: ...

    def port_came(self, port: TunnelAtWire) -> None:
        """It may join wires."""

    def port_goes(self, port: TunnelAtWire) -> None:
        """It is taken out of its wire; its number is freed later."""

    def port_invites(self, port: ResidentPort) -> None:
        """Its far end is about to hear that it may send: frames that come from now on have to find a way."""


class Tunnels:
    """The tunnels of a machine, and the receiving sockets that the program has."""

    def __init__(self, loop: asyncio.AbstractEventLoop, program: WireProgram, host: PortHost) -> None:
        self._loop = loop
        self._program = program
        self._host = host
        self._ends: dict[NetClient, TunnelPort] = {}
        """All tunnels, wherever they are."""
        self._ports: dict[NetClient, TunnelAtWire] = {}
        """Those at the program."""
        self._sockets: dict[SharedSocket, int] = {}
        self._numbers = Numbers()
        self._refused: dict[SharedSocket, str] = {}
        """Sockets that the program did not take."""
        self._returning: dict[SharedSocket, list[TunnelAtWire]] = {}
        """Sockets that the program has been asked to give back, with their ports."""
        self.leaving: dict[asyncio.Future[None], None] = {}
        """Each is done when the program has closed the descriptors of a tunnel that is closed."""

    def refusal(self, client: NetClient) -> str:
        """Why the program does not have this tunnel; "" if it has it, or will."""
        return self._refused.get(self._ends[client].sockets.shared, "") if client in self._ends else ""

    # -- handing over -------------------------------------------------------------------------------------------

    def keep(self, client: NetClient, end: ResidentEnd) -> None:
        """Have the program carry out its part whenever it runs."""
        assert isinstance(end, TunnelPort)
        self._ends[client] = end
        self._program.start()
        if self._program.running:
            self._hand_over(client, end)

    def program_ready(self) -> None:
        for client, end in self._ends.items():
            self._hand_over(client, end)

    def _hand_over(self, client: NetClient, end: TunnelPort) -> None:
        shared = end.sockets.shared
        if shared in self._refused:
            return
        number = self._sockets.get(shared)
        if number is None:
            number = self._sockets[shared] = self._numbers.take()
            shared.lend()
            self._program.sockets.add(number)
            self._program.kept.changed()
            self._program.request(SocketAdd(number), (shared.sock.fileno(),))
        failed = partial(self.give_up, shared)
        port = TunnelAtWire(
            self._program.channel, self._host.take_number(), client, end, self._host.port_invites, failed
        )
        self._ports[client] = port
        port.add(number)
        self._host.port_came(port)

    # -- taking back ----------------------------------------------------------------------------------------------

    def give_up(self, shared: SharedSocket, reason: str) -> None:
        """The program does not do what it should with a socket: Python goes on with all tunnels of it."""
        if shared in self._refused or shared not in self._sockets:
            return
        log.warning("tunnels at %s: vnic-wire: %s; Python goes on with them", shared.place.text(), reason)
        self._refused[shared] = f"vnic-wire: {reason}"
        ports = [port for port in self._ports.values() if port.end.sockets.shared is shared]
        self._returning[shared] = ports
        returned: list[tuple[TunnelAtWire, TunnelState | None]] = []
        for port in ports:
            del self._ports[port.client]
            self._host.port_goes(port)
            port.remove(partial(self._returned, port, returned))
        number = self._sockets.pop(shared)

        def closed(_: Reply) -> None:
            self._socket_is_gone(number)
            del self._returning[shared]
            shared.take_back()
            for port, state in returned:
                if self._ends.get(port.client) is port.end:
                    port.take_back(state)

        self._program.request(SocketRemove(number), answered=closed)

    def _returned(
        self,
        port: TunnelAtWire,
        returned: list[tuple[TunnelAtWire, TunnelState | None]],
        state: TunnelState | None,
    ) -> None:
        self._host.free_number(port.number)
        returned.append((port, state))

    def drop(self, client: NetClient) -> None:
        """The tunnel is closed: the program closes its descriptors, too."""
        end = self._ends.pop(client, None)
        port = self._ports.pop(client, None)
        if end is None:
            return
        shared = end.sockets.shared
        is_last = not any(each.sockets.shared is shared for each in self._ends.values())
        if is_last:
            self._refused.pop(shared, None)
        if port is None:
            return
        self._host.port_goes(port)
        future: asyncio.Future[None] = self._loop.create_future()
        self.leaving[future] = None

        def done() -> None:
            if not future.done():
                del self.leaving[future]
                future.set_result(None)

        def removed(_: TunnelState | None) -> None:
            self._host.free_number(port.number)
            if not is_last:
                done()

        port.remove(removed)
        if is_last:
            number = self._sockets.pop(shared)

            def closed(_: Reply) -> None:
                self._socket_is_gone(number)
                done()

            self._program.request(SocketRemove(number), answered=closed)

    def _socket_is_gone(self, number: int) -> None:
        self._numbers.free(number)
        self._program.sockets.discard(number)
        self._program.kept.changed()

    def program_gone(self) -> None:
        """It died, and what it knew last is gone with it."""
        ports, self._ports = self._ports, {}
        sockets, self._sockets = self._sockets, {}
        returning, self._returning = self._returning, {}
        self._numbers = Numbers()
        self._refused.clear()
        for shared in (*sockets, *returning):
            shared.take_back()
        for port in (*ports.values(), *(port for each in returning.values() for port in each)):
            if self._ends.get(port.client) is port.end:
                port.take_back(None)
        leaving, self.leaving = self.leaving, {}
        for future in leaving:
            future.set_result(None)

    # -- statistics -----------------------------------------------------------------------------------------------

    def refresh(self, done: Callable[[], None]) -> None:
        """Ask for the counters; `done` is called when all are there, or the program has died."""
        if not self._ports or not self._program.running:
            done()
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self.leaving[future] = None
        future.add_done_callback(lambda _: done())
        for shared, number in self._sockets.items():
            self._program.request(GetSocketStats(number), answered=partial(_count_at, shared))
        *others, last = self._ports.values()
        for port in others:
            port.ask(_nothing)

        def answered() -> None:
            if not future.done():
                del self.leaving[future]
                future.set_result(None)

        last.ask(answered)


def _nothing() -> None:
    return


def _count_at(shared: SharedSocket, reply: Reply) -> None:
    if not reply.error:
        shared.mover_counters = SocketCounters(*msgspec.structs.astuple(SocketStats.parse(reply.data)))

"""Tunnels at vnic-wire: it has their sockets whenever it runs, makes and judges their CCMs, and returns their state.

`engine` has one Tunnels. A tunnel's port is there also while its link is down, or while Python moves the packets of its
wire: then the frames come to this process, and go out there one by one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import msgspec

from vnic.backend.tunnel.info import SocketCounters, TunnelCounters
from vnic.backend.tunnel.port import FarState, TunnelPort
from vnic.backend.tunnel.sockets import SharedSocket
from vnic.dataplane.wire.channel import Channel
from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import Kind, PortAdd, PortRemove, Reply
from vnic.dataplane.wire.ports import Numbers, ResidentPort, inject
from vnic.dataplane.wire.process import WireProgram
from vnic.dataplane.wire.tunnel_messages import (
    CcmMode,
    CcmSet,
    CcmState,
    FrameReceived,
    GetSocketStats,
    GetTunnelStats,
    Heard,
    PortToControl,
    SocketAdd,
    SocketRemove,
    SocketStats,
    TunnelConfig,
    TunnelState,
    TunnelStats,
    TunnelTrouble,
)
from vnic.net.client import NetClient
from vnic.net.lending import ResidentEnd
from vnic.protocol.cfm.ccm import ETHERNET_BYTES, INTERVALS_US, InterfaceStatus
from vnic.protocol.cfm.mep import Heard as MepHeard
from vnic.protocol.cfm.mep import MepRecord, MepState
from vnic.protocol.trailer import TrailerRecord

log = logging.getLogger("vnic.wire")

FRAME_MAX_BYTES: Final = 69632
"""`max_frame` of a tunnel without mtu=."""
_MODES: Final = {"off": CcmMode.OFF, "on": CcmMode.ON, "auto": CcmMode.AUTO}
_CODES: Final = {us: code for code, us in INTERVALS_US.items()}


class TunnelAtWire(ResidentPort):
    """One tunnel's port at the program (Mover)."""

    end: TunnelPort

    def __init__(
        self,
        channel: Channel,
        number: int,
        client: NetClient,
        end: TunnelPort,
        invites: Callable[[ResidentPort], None],
        failed: Callable[[str], None],
    ) -> None:
        """`invites`: called before the far end hears that it may send. `failed`: called with the reason if the program
        cannot go on with it."""
        self.number = number
        self.client = client
        self.end = end
        self._invites = invites
        self._failed = failed
        self._channel = channel
        self._to_control = False

    def add(self, socket_number: int) -> None:
        """Hand the tunnel over."""
        end = self.end
        state = _state(end)
        config, mep = end.config, end.mep
        options = TunnelConfig(
            socket=socket_number,
            vni=config.vni,
            interval_us=0 if mep is None else mep.config.interval_us,
            mode=_MODES[config.mode],
            level=config.level,
            mep=end.mep_id,
            maid=config.maid,
            mac=end.source_mac,
            status=InterfaceStatus.UP if mep is None else mep.own_status,
            key=config.key or b"",
            state=state,
        )
        end.hand_over(self)
        limit = FRAME_MAX_BYTES if config.mtu is None else config.mtu + ETHERNET_BYTES
        sending = end.sockets.sending
        request = PortAdd(
            self.number, Kind.TUNNEL, max_frame=limit, dest=_sockaddr(sending), own=options.pack()
        )

        def added(reply: Reply) -> None:
            if reply.error:
                self._failed(reply.data.decode(errors="replace") or os.strerror(reply.error))

        self._channel.request(request, (sending.fileno(),), added)

    # -- Mover ------------------------------------------------------------------------------------------------

    def inject(self, frame: bytes) -> None:
        inject(self._channel, self.client, self.number, 0, frame)

    def set_status(self, status: InterfaceStatus) -> None:
        if status is InterfaceStatus.UP:
            self._invites(self)
        self._channel.request(CcmSet(self.number, status))

    # -- the engine's part ------------------------------------------------------------------------------------

    def to_control(self, on: bool) -> None:
        """Whether the far end's frames come to this process."""
        if on is not self._to_control:
            self._to_control = on
            self._channel.request(PortToControl(self.number, on))

    def happened(self, event: CcmState | FrameReceived | TunnelTrouble) -> None:
        """The program tells of the other end, or has a frame from there for this process."""
        if isinstance(event, TunnelTrouble):
            self.end.tell(event.cause)
            return
        if isinstance(event, FrameReceived):
            self.end.mover_received(event.frame)
            return
        status = InterfaceStatus(event.status) if event.status in list(InterfaceStatus) else None
        state = MepState(MepHeard(event.heard), event.rdi, status, 0)
        self.end.mover_sequence = event.remote_sequence if event.heard is Heard.YES else None
        self.end.mover_told(FarState(state, event.refused, event.silent_us))

    def lost(self, error: int) -> None:
        self._failed(os.strerror(error) if error else "a socket has ended")

    def ask(self, answered: Callable[[], None]) -> None:
        """Ask for the counters."""

        def take(reply: Reply) -> None:
            if not reply.error:
                try:
                    counters = TunnelStats.parse(reply.data)
                    self.end.mover_counters = TunnelCounters(*msgspec.structs.astuple(counters))
                except MessageError as error:
                    log.warning("%s: statistics of vnic-wire: %s", self.client.name, error)
            answered()

        self._channel.request(GetTunnelStats(self.number), answered=take)

    def remove(self, removed: Callable[[TunnelState | None], None]) -> None:
        """Ask for the port's end; `removed` gets the state that it had."""

        def done(reply: Reply) -> None:
            state = None
            if not reply.error:
                try:
                    state = TunnelState.parse(reply.data)
                except MessageError as error:
                    log.warning("%s: the state of vnic-wire: %s", self.client.name, error)
            removed(state)

        self._channel.request(PortRemove(self.number), answered=done)

    def take_back(self, state: TunnelState | None) -> None:
        """Python goes on, with the state that the program had, or without it when that died."""
        if state is None:
            self.end.take_back(None, None, refused=None)
            return
        trailer = TrailerRecord(
            counter=state.counter,
            remote_counter=state.remote_counter,
            remote_window=state.remote_window,
        )
        self.end.take_back(_mep_record(state, self.end), trailer, refused=state.refused)


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
            self._numbers.free(number)
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
                self._numbers.free(number)
                done()

            self._program.request(SocketRemove(number), answered=closed)

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


def _state(end: TunnelPort) -> TunnelState:
    """The state of a tunnel, as the program goes on with it."""
    mep = None if end.mep is None else end.mep.save(end.now_us())
    trailer = None if end.trailer is None else end.trailer.save()
    if mep is None or mep.heard == MepHeard.NEVER:
        heard_ns = 0
    else:
        heard_ns = max(1, time.monotonic_ns() - mep.heard_age_us * 1000)
    return TunnelState(
        counter=0 if trailer is None else trailer.counter,
        remote_counter=0 if trailer is None else trailer.remote_counter,
        remote_window=0 if trailer is None else trailer.remote_window,
        heard_ns=heard_ns,
        sequence=0 if mep is None else mep.sequence,
        remote_sequence=0 if mep is None else _remote_sequence(mep, end),
        remote_interval_us=INTERVALS_US.get(mep.remote_interval, 0) if mep is not None else 0,
        remote_mep=0 if mep is None else mep.remote_mep,
        heard=Heard.NEVER if mep is None else Heard(mep.heard),
        rdi=mep is not None and mep.rdi,
        remote_status=0 if mep is None else mep.status,
        refused=end.refused,
    )


def _remote_sequence(mep: MepRecord, end: TunnelPort) -> int:
    """The number that the other end's next CCM has to be ahead of. Where an earlier life of the program took what was
    known with it, that is one that those of a vnic are ahead of: they begin with the wall clock."""
    if mep.remote_sequence is not None:
        return mep.remote_sequence
    return ((end.wall_ns() >> 20) - (1 << 30)) & 0xFFFF_FFFF


def _mep_record(state: TunnelState, end: TunnelPort) -> MepRecord | None:
    if end.mep is None:
        return None
    age_ns = time.monotonic_ns() - state.heard_ns if state.heard_ns else 0
    return MepRecord(
        sequence=state.sequence,
        heard=int(state.heard),
        rdi=state.rdi,
        status=state.remote_status,
        remote_mep=state.remote_mep,
        remote_sequence=state.remote_sequence,
        remote_interval=_CODES.get(state.remote_interval_us, end.mep.config.interval),
        heard_age_us=max(0, age_ns // 1000),
        send_left_us=0,
        own_status=int(end.mep.own_status),
    )


def _sockaddr(sending: socket.socket) -> bytes:
    """The struct sockaddr of the far end (ip(7), ipv6(7))."""
    address = sending.getpeername()
    head = struct.pack("=H", sending.family) + struct.pack(">H", address[1])
    if sending.family == socket.AF_INET:
        return head + socket.inet_pton(socket.AF_INET, address[0]) + bytes(8)
    host = socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0])
    return head + struct.pack(">I", address[2]) + host + struct.pack("=I", address[3])

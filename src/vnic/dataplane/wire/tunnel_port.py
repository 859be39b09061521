"""One tunnel's port at vnic-wire: what it is handed over with, what vnic-wire tells of it, and the state that comes
back.

`tunnels` makes one for each tunnel that the program has; `settle` takes the states that a recalled one left.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

import msgspec

from vnic.backend.tunnel.info import TunnelCounters
from vnic.backend.tunnel.port import FarState, TunnelPort
from vnic.dataplane.wire.channel import Channel
from vnic.dataplane.wire.layout import MessageError
from vnic.dataplane.wire.messages import Kind, PortAdd, PortRemove, Reply
from vnic.dataplane.wire.ports import ResidentPort, inject
from vnic.dataplane.wire.records import PortFacts, ToldRecord
from vnic.dataplane.wire.tunnel_messages import (
    CcmMode,
    CcmSet,
    CcmState,
    FrameReceived,
    GetTunnelStats,
    Heard,
    PortToControl,
    TunnelConfig,
    TunnelState,
    TunnelStats,
    TunnelTrouble,
)
from vnic.net.client import NetClient
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
        self._socket_number = 0

    def add(self, socket_number: int) -> None:
        """Hand the tunnel over."""
        self._socket_number = socket_number
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

    @property
    def facts(self) -> PortFacts:
        """What its record holds."""
        end, told = self.end, None
        if end.mep is not None:
            far = end.far_state()
            assert far is not None
            told = ToldRecord(
                heard=int(far.mep.heard),
                rdi=far.mep.rdi,
                status=int(far.mep.status or 0),
                refused=far.refused,
                silent_us=far.silent_us,
                sequence=end.mover_sequence,
            )
        return PortFacts(Kind.TUNNEL, shared=self._socket_number, told=told)

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
        self.end.take_back(mep_record(state, self.end), trailer_record(state), refused=state.refused)


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


def trailer_record(state: TunnelState) -> TrailerRecord:
    """The part of the state that belongs to the key."""
    return TrailerRecord(
        counter=state.counter,
        remote_counter=state.remote_counter,
        remote_window=state.remote_window,
    )


def mep_record(state: TunnelState, end: TunnelPort) -> MepRecord | None:
    """The part of the state that belongs to CCMs; None: there are none."""
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

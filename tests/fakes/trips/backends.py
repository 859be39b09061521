"""Netdevs: connected, half-way in a frame, waiting for a peer, for a time or for room."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tests.fakes.loops import turn, until
from tests.fakes.ports import free_ports
from tests.fakes.trips import Trip, restoring, same_listening, trip
from tests.fakes.trips.net import NoRoom

from vnic.backend.base import Backend, BackendContext
from vnic.backend.connection import FramedConnectionRecord
from vnic.backend.dgram import DgramBackend, DgramHandles
from vnic.backend.echo import EchoBackend
from vnic.backend.framing import LENGTH, DeframerRecord
from vnic.backend.interface.backend import InterfaceBackend, InterfaceHandles
from vnic.backend.interface.record import InterfaceRecord
from vnic.backend.options import (
    DgramOptions,
    EchoOptions,
    InterfaceOptions,
    SocketOptions,
    StreamOptions,
    TapOptions,
    TunnelOptions,
    UserOptions,
)
from vnic.backend.passt.process import PasstRecord, PasstState
from vnic.backend.passt.stream import PasstBackend, PasstHandles
from vnic.backend.socket_netdev import SocketBackend, SocketHandles
from vnic.backend.stream import StreamBackend, StreamHandles, StreamState
from vnic.backend.tap.backend import TapBackend
from vnic.backend.tap.record import TapQueueRecord, TapRecord
from vnic.backend.transport import TransportRecord
from vnic.backend.tunnel.backend import TunnelBackend, TunnelHandles
from vnic.backend.user.backend import UserBackend
from vnic.net.network import Network
from vnic.protocol import vxlan
from vnic.protocol.cfm.ccm import Ccm, ethernet_header, maid
from vnic.protocol.trailer import Trailer, derive
from vnic.record import RecordError
from vnic.sockets.address import InetAddress
from vnic.sockets.listener import Listening


class Lab:
    """Netdevs on one loop, each in a network of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop = stack.enter_context(asyncio.Runner()).get_loop()

    def context(self, stack: ExitStack) -> BackendContext:
        network = Network(self.loop)

        def end() -> None:
            network.close()
            turn(self.loop)

        stack.callback(end)
        return BackendContext(self.loop, network)

    def unit(self, stack: ExitStack, made: Callable[[BackendContext], Backend], *, start: bool) -> Any:
        """A netdev that has started, or one that is to be restored."""
        context = self.context(stack)
        backend = made(context)
        context.network.add_netdev("net0", "stream", backend, start=None if start else lambda: None)
        return backend

    def trip(self, unit: Any, made: Callable[[BackendContext], Backend], dup: Callable[[Any], Any]) -> Trip:
        """`dup`: duplicates the handles, and gives them back with the sockets that are to close if refused."""

        def observe(unit: Any) -> object:
            return unit.info_text(0), [type(each) for each in unit.handles], unit.save()

        return Trip(unit, lambda stack: self.unit(stack, made, start=False), restoring(dup, unit), observe)


def dup_listening(handles: Any) -> tuple[Any, list[socket.socket]]:
    """Those of a netdev that may listen and may have a connection."""
    listening, sock = handles
    there = same_listening(listening)
    other = sock.dup() if sock is not None else None
    socks = [each for each in (there and there.socket, other) if each is not None]
    return type(handles)(there, other), socks


def peer_of(stack: ExitStack, listening: Listening | None) -> socket.socket:
    assert listening is not None
    peer = socket.create_connection(listening.socket.getsockname()[:2])
    stack.callback(peer.close)
    return peer


MAC = b"\2" * 6
HALF = LENGTH.pack(500) + b"half"


@trip("stream that is connected")
def stream(stack: ExitStack) -> Trip:
    """It listens; half a frame is here."""
    lab = Lab(stack)

    def made(context: BackendContext) -> StreamBackend:
        address = InetAddress(host="127.0.0.1", port="0")
        return StreamBackend(context, StreamOptions(id="net0", addr=address, server=True))

    unit: StreamBackend = lab.unit(stack, made, start=True)
    until(lab.loop, lambda: unit.state is StreamState.LISTENING)
    peer_of(stack, unit.handles.listening).sendall(HALF)
    until(lab.loop, lambda: has_rest(unit.save().transport.connection))
    assert isinstance(unit.handles, StreamHandles)
    return lab.trip(unit, made, dup_listening)


def has_rest(record: Any) -> bool:
    return record is not None and record.deframer.rest == HALF


@trip("stream that waits")
def stream_waits(stack: ExitStack) -> Trip:
    """For the time of its next attempt, an hour."""
    lab = Lab(stack)
    free = socket.socket()  # bound, and does not listen
    stack.callback(free.close)
    free.bind(("127.0.0.1", 0))
    address = InetAddress(host="127.0.0.1", port=str(free.getsockname()[1]))

    def made(context: BackendContext) -> StreamBackend:
        return StreamBackend(context, StreamOptions(id="net0", addr=address, reconnect_ms=3_600_000))

    unit: StreamBackend = lab.unit(stack, made, start=True)
    until(lab.loop, lambda: unit.state is StreamState.WAITING and (unit.save().wait_us or 0) > 1e6)
    whole = lab.trip(unit, made, dup_listening)
    return stopped_clock(lab, whole)


def stopped_clock(lab: Lab, whole: Trip) -> Trip:
    """A time that goes on would differ between two looks."""
    now = lab.loop.time()
    lab.loop.time = lambda: now  # type: ignore[method-assign]  # time stands still
    return whole


@trip("socket that has a connection")
def socket_connected(stack: ExitStack) -> Trip:
    lab = Lab(stack)

    def made(context: BackendContext) -> SocketBackend:
        return SocketBackend(context, SocketOptions(id="net0", listen="127.0.0.1:0"))

    unit: SocketBackend = lab.unit(stack, made, start=True)
    peer_of(stack, unit.handles.listening).sendall(HALF)
    until(lab.loop, lambda: has_rest(unit.save().transport.connection))
    assert isinstance(unit.handles, SocketHandles)
    return lab.trip(unit, made, dup_listening)


@trip("dgram")
def dgram(stack: ExitStack) -> Trip:
    """UDP, to itself."""
    lab = Lab(stack)
    free = socket.socket(type=socket.SOCK_DGRAM)
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
    free.close()

    def made(context: BackendContext) -> DgramBackend:
        here = InetAddress(host="127.0.0.1", port=port)
        return DgramBackend(context, DgramOptions(id="net0", local=here, remote=here))

    def dup(handles: DgramHandles) -> tuple[DgramHandles, list[socket.socket]]:
        assert handles.sock is not None
        sock = handles.sock.dup()
        return DgramHandles(sock, None), [sock]

    unit: DgramBackend = lab.unit(stack, made, start=True)
    return lab.trip(unit, made, dup)


@trip("echo")
def echo(stack: ExitStack) -> Trip:
    """An answer is due in the next turn."""
    lab = Lab(stack)

    def made(context: BackendContext) -> EchoBackend:
        return EchoBackend(context, EchoOptions(id="net0"))

    unit: EchoBackend = lab.unit(stack, made, start=True)
    request = b"\xff" * 6 + b"\2" * 6 + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x800, 6, 4, 1)
    unit.receive(0, request + b"\2" * 6 + bytes(10) + ipaddress.IPv4Address(EchoOptions(id="e").ip).packed)
    assert unit.save().answers
    return Trip(
        unit,
        lambda stack: lab.unit(stack, made, start=False),
        lambda new, record: new.restore(record),
        lambda unit: unit.save(),
    )


@trip("tap")
def tap(stack: ExitStack) -> Trip:
    """The host reads no more, and the guest has no room; a socket plays the part of the interface."""
    lab = Lab(stack)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (ours, theirs):
        stack.callback(sock.close)
        sock.setblocking(False)

    def made(context: BackendContext) -> TapBackend:
        return TapBackend(context, TapOptions(id="net0", ifname="vnic-none"))

    def made_with_nic(stack: ExitStack) -> TapBackend:
        unit: TapBackend = lab.unit(stack, made, start=False)
        unit.context.network.add_nic("nic0", "x", NoRoom(), mac=MAC, netdev_id="net0")
        return unit

    def restore(new: TapBackend, record: TapRecord) -> None:
        fds = [os.dup(ours.fileno())]
        try:
            new.restore(record, fds)
        except RecordError:
            os.close(fds[0])
            raise

    unit = made_with_nic(stack)
    started = TapQueueRecord(offloads=0, paused_for=None, sender_waits=False)
    restore(
        unit,
        TapRecord(
            ifname="vnic-none",
            vnet_hdr=False,
            info="ifname=vnic-none,script=no,downscript=no",
            comes_back=True,
            script_running=False,
            carrier=True,
            queues=[started],
        ),
    )
    theirs.send(b"to the guest")
    theirs.send(b"stays in the kernel")
    until(lab.loop, lambda: unit.save().queues[0].paused_for == 0)
    while unit.receive(0, bytes(60000)):
        pass
    return Trip(unit, made_with_nic, restore, lambda unit: (unit.save(), unit.info_text(0)))


@trip("passt")
def passt(stack: ExitStack) -> Trip:
    """It serves after two failures, and has sent half a frame."""
    lab = Lab(stack)
    return passt_trip(stack, lab, lambda context: PasstBackend(context, ["passt"]))


@trip("user")
def user(stack: ExitStack) -> Trip:
    """Its rules are not those of its options."""
    lab = Lab(stack)

    def made(context: BackendContext) -> UserBackend:
        return UserBackend(context, UserOptions(id="net0", restrict=True))

    return passt_trip(stack, lab, made, forwards=["tcp::2222-10.0.2.15:22"])


def passt_trip(
    stack: ExitStack, lab: Lab, made: Callable[[BackendContext], PasstBackend], **more: Any
) -> Trip:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        stack.callback(sock.close)

    def restore(new: PasstBackend, record: Any) -> None:
        handles = PasstHandles(ours.dup(), None)
        try:
            new.restore(record, handles)
        except RecordError:
            assert handles.sock is not None
            handles.sock.close()
            raise

    unit: PasstBackend = lab.unit(stack, made, start=False)
    connection = FramedConnectionRecord(
        deframer=DeframerRecord(rest=b""), out=b"", paused=False, sender_waits=False, lost=None
    )
    serving = PasstRecord(
        state=PasstState.SERVING,
        pid=4711,
        wait_us=None,
        delay_us=200_000,
        last_failure="passt failed",
        same_failures=2,
    )
    kind = type(unit.save())
    transport = TransportRecord(connection=connection, port=None)
    restore(unit, kind(passt=serving, transport=transport, logged="passt failed", **more))
    theirs.sendall(HALF)
    until(lab.loop, lambda: has_rest(unit.save().transport.connection))
    return Trip(
        unit,
        lambda stack: lab.unit(stack, made, start=False),
        restore,
        lambda unit: (unit.save(), unit.info_text(0)),
    )


@trip("interface")
def interface(stack: ExitStack) -> Trip:
    """The interface was set down and is gone now, and the guest has no room; a socket plays the part of the packet
    socket."""
    lab = Lab(stack)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (ours, theirs):
        stack.callback(sock.close)
        sock.setblocking(False)

    def made(context: BackendContext) -> InterfaceBackend:
        return InterfaceBackend(context, InterfaceOptions(id="net0", ifname="vnic-none", propagate=True))

    def made_with_nic(stack: ExitStack) -> InterfaceBackend:
        unit: InterfaceBackend = lab.unit(stack, made, start=False)
        unit.context.network.add_nic("nic0", "x", NoRoom(), mac=MAC, netdev_id="net0")
        return unit

    def restore(new: InterfaceBackend, record: InterfaceRecord) -> None:
        sock = ours.dup()
        try:
            new.restore(record, InterfaceHandles(sock, None, -1))
        except RecordError:
            sock.close()
            raise

    unit = made_with_nic(stack)
    started = InterfaceRecord(
        vnet_hdr=False, index=0, set_down=False, namespace_gone=False, paused_for=0, sender_waits=False
    )
    restore(unit, started)
    while unit.receive(0, bytes(60000)):
        pass
    assert unit.save().sender_waits
    return Trip(unit, made_with_nic, restore, lambda unit: (unit.save(), unit.info_text(0)))


@trip("tunnel")
def tunnel(stack: ExitStack) -> Trip:
    """It has heard its own CCMs, as of another end, has a key, and waits for room."""
    lab = Lab(stack)
    (port,) = free_ports(socket.SOCK_DGRAM, 1)

    def made(context: BackendContext) -> TunnelBackend:
        here = f"127.0.0.1:{port}"
        return TunnelBackend(
            context, TunnelOptions(id="net0", local=here, remote=here, vni=7, key="secret", interval=60000)
        )

    def dup(handles: TunnelHandles) -> tuple[TunnelHandles, list[socket.socket]]:
        assert handles.receiving is not None
        assert handles.sending is not None
        socks = [handles.receiving.dup(), handles.sending.dup()]
        return TunnelHandles(*socks), socks

    unit: TunnelBackend = lab.unit(stack, made, start=True)
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        message = Ccm(level=0, interval=7, sequence=5, mep=1, maid=maid("vnic 7"), rdi=True)
        datagram = vxlan.header(7) + ethernet_header(0, MAC) + message.pack()
        peer.sendto(Trailer(derive("secret"), 1, 1).seal(datagram), ("127.0.0.1", port))

    def has_heard(record: Any) -> bool:
        return bool(record.mep.heard)

    until(lab.loop, lambda: has_heard(unit.save()))
    return stopped_clock(lab, lab.trip(unit, made, dup))

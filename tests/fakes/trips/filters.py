"""Filters: one that holds frames, a dump to a FIFO that is full, connections to chardevs half-way in a frame."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.fakes.loops import turn, until
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, restoring, same_listening, trip
from tests.fakes.trips.net import network

from vnic.backend.base import BackendContext
from vnic.backend.framing import LENGTH
from vnic.chardev.options import SocketOptions
from vnic.chardev.table import Chardevs
from vnic.filter.buffer import BufferFilter
from vnic.filter.dump import DumpFilter, DumpFilterRecord
from vnic.filter.mirror import MirrorFilter, RedirectorFilter, RedirectorHandles
from vnic.filter.netem import Netem
from vnic.filter.options import (
    BufferOptions,
    DumpOptions,
    MirrorOptions,
    NetemOptions,
    RedirectorOptions,
    ReplayOptions,
)
from vnic.filter.port import PortHandles
from vnic.filter.replay import ReplayFilter
from vnic.net.client import Endpoint
from vnic.net.filters import Filter
from vnic.net.network import Network
from vnic.record import RecordError
from vnic.sockets.address import UnixAddress


def on_netdev(unit: Filter, net: Network) -> None:
    client = net.find_netdev("net0")
    assert client is not None
    unit.netdev = client
    client.filters.append(unit)


@trip("filter-buffer")
def filter_buffer(stack: ExitStack) -> Trip:
    loop = stack.enter_context(asyncio.Runner()).get_loop()

    def make(stack: ExitStack) -> BufferFilter:
        net = network(stack)
        unit = BufferFilter(BackendContext(loop, net), BufferOptions(id="f0", netdev="net0", interval=1000))
        on_netdev(unit, net)
        unit.setup()
        return unit

    unit = make(stack)
    unit.receive(unit.netdev, 1, b"to the guest", b"")
    assert unit.netdev.peer is not None
    unit.receive(unit.netdev.peer, 0, b"from the guest", bytes(10))
    return Trip(unit, make, lambda unit, record: unit.restore(record), lambda unit: unit.save())


@trip("filter-replay")
def filter_replay(stack: ExitStack) -> Trip:
    """It has the state that all filters have."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()

    def make(stack: ExitStack) -> ReplayFilter:
        net = network(stack)
        unit = ReplayFilter(BackendContext(loop, net), ReplayOptions(id="f0", netdev="net0"))
        on_netdev(unit, net)
        return unit

    unit = make(stack)
    unit.set_status("off")
    return Trip(unit, make, lambda unit, record: unit.restore(record), lambda unit: unit.on)


@trip("filter-dump")
def filter_dump(stack: ExitStack) -> Trip:
    """The FIFO's reader does not read: part of a record waits, and a frame was left out."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()
    fifo = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    stack.callback(os.close, reader)

    def make(stack: ExitStack) -> DumpFilter:
        net = network(stack)
        unit = DumpFilter(BackendContext(loop, net), DumpOptions(id="f0", netdev="net0", file=str(fifo)))
        on_netdev(unit, net)
        return unit

    unit = make(stack)
    unit.setup()
    while not unit.save().dropped:
        unit.receive(unit.netdev, 0, bytes(9000), b"")
    assert unit.save().rest

    def restore(new: DumpFilter, record: DumpFilterRecord) -> None:
        assert unit.handles is not None
        fd = os.dup(unit.handles)
        try:
            new.restore(record, fd)
        except RecordError:
            os.close(fd)
            raise

    return Trip(unit, make, restore, lambda unit: (unit.save().dropped, len(unit.save().rest)))


class PortLab:
    """Filters on chardevs whose far ends are the test's."""

    def __init__(self, stack: ExitStack, make: Callable[[BackendContext], Any]) -> None:
        self.loop = stack.enter_context(asyncio.Runner()).get_loop()
        self.make = make
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

    def unit(self, stack: ExitStack) -> Any:
        """A filter that is not set up; `out` listens itself, `in` connects."""
        net = Network(FakeScheduler())
        stack.callback(net.close)
        chardevs = Chardevs()
        for label, server in (("out", True), ("in", False)):
            address = UnixAddress(path=str(self.folder / label))
            chardevs.add(SocketOptions(id=label, addr=address, server=server, reconnect_ms=0))
        net.add_netdev("net0", "stream", Endpoint())
        unit = self.make(BackendContext(self.loop, net, chardevs))
        on_netdev(unit, net)
        stack.callback(turn, self.loop)
        return unit

    def trip(self, unit: Any) -> Trip:
        return Trip(unit, self.unit, restoring(dup, unit), lambda unit: unit.save())


def dup(handles: Any) -> tuple[Any, list[socket.socket]]:
    if isinstance(handles, RedirectorHandles):
        (indev, socks), (outdev, others) = map(dup, handles)
        return RedirectorHandles(indev, outdev), [*socks, *others]
    listening = same_listening(handles.listening)
    connected = None if handles.connected is None else handles.connected.dup()
    socks = [each for each in (listening and listening.socket, connected) if each is not None]
    return PortHandles(listening, connected), socks


@trip("filter-mirror")
def filter_mirror(stack: ExitStack) -> Trip:
    """Its peer has not read all."""

    def make(context: BackendContext) -> MirrorFilter:
        return MirrorFilter(context, MirrorOptions(id="f0", netdev="net0", outdev="out"))

    lab = PortLab(stack, make)
    unit = lab.unit(stack)
    unit.setup()
    peer = socket.socket(socket.AF_UNIX)
    stack.callback(peer.close)
    peer.connect(str(lab.folder / "out"))
    until(lab.loop, lambda: unit.handles.connected)
    while not unit.save().out.dropped:
        unit.receive(unit.netdev, 0, bytes(60000), b"")
    return lab.trip(unit)


@trip("filter-redirector")
def filter_redirector(stack: ExitStack) -> Trip:
    """It is switched off, listens at one chardev, and has half a frame from the other."""

    def make(context: BackendContext) -> RedirectorFilter:
        options = RedirectorOptions(id="f0", netdev="net0", indev="in", outdev="out")
        return RedirectorFilter(context, options)

    lab = PortLab(stack, make)
    far = socket.socket(socket.AF_UNIX)
    stack.callback(far.close)
    far.bind(str(lab.folder / "in"))
    far.listen()
    unit = lab.unit(stack)
    unit.setup()
    unit.set_status("off")
    until(lab.loop, lambda: unit.handles.indev.connected)
    peer = far.accept()[0]
    stack.callback(peer.close)
    peer.sendall(LENGTH.pack(500) + b"half")
    until(lab.loop, lambda: unit.save().indev.connection.deframer.rest)
    return lab.trip(unit)


@trip("netem")
def netem(stack: ExitStack) -> Trip:
    """Frames are under way in both directions, and its parameters were changed."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()

    def make(stack: ExitStack) -> Netem:
        net = network(stack)
        unit = Netem(BackendContext(loop, net), NetemOptions(id="f0", netdev="net0", delay="10ms", seed=7))
        on_netdev(unit, net)
        return unit

    unit = make(stack)
    changes = {"jitter": "5ms", "distribution": "normal", "duplicate": "30%", "loss": "20%", "rate": "1mbit"}
    unit.change(changes, "test")
    assert unit.netdev.peer is not None
    for number in range(20):
        unit.receive(unit.netdev, 1, bytes([number]) * 200, bytes(10))
        unit.receive(unit.netdev.peer, 0, bytes([number]) * 200, b"")
    return Trip(unit, make, lambda unit, record: unit.restore(record), lambda unit: unit.all_properties())

"""Connections whose peers do not read."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack

from tests.fakes.loops import turn
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.trips import Trip, trip

from vnic.attach.gate import FREE_STRIKES, Gate
from vnic.attach.vhost_user.request_channel import RequestChannel
from vnic.descriptors import close_fds
from vnic.keep import NO_KEPT
from vnic.record import RecordError
from vnic.sockets.connection import Connection, ConnectionRecord
from vnic.sockets.kept_connection import KeptConnection


class Nobody:
    """Reads nothing."""

    wanted = 1

    def received(self, data: bytes, fds: list[int]) -> None: ...

    def lost(self, reason: str | None) -> None: ...


@trip("connection with output that waits")
def connection(stack: ExitStack) -> Trip:
    """Part of a message is sent, one with a descriptor waits; it is paused."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()
    fd = os.eventfd(0)
    stack.callback(os.close, fd)

    def make(stack: ExitStack) -> Connection:
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        unit = Connection(loop, ours, Nobody(), max_fds=8)
        stack.callback(unit.close)
        return unit

    unit = make(stack)
    unit.send(bytes(400_000))
    unit.send(b"behind", [fd])
    unit.pause()
    assert [len(fds) for fds in unit.fds] == [0, 1]

    def restore(new: Connection, record: ConnectionRecord) -> None:
        fds = [[os.dup(fd) for fd in each] for each in unit.fds]
        try:
            new.restore(record, fds)
        except RecordError:
            for each in fds:
                close_fds(each)
            raise

    return Trip(unit, make, restore, lambda each: (each.save(), len(each.fds)))


@trip("channel for requests of a back-end")
def request_channel(stack: ExitStack) -> Trip:
    """Only part of a message had room."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()

    def make(stack: ExitStack) -> RequestChannel:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            stack.callback(sock.close)
        ours.setblocking(False)
        unit = RequestChannel(loop, "nic0")
        unit.use(ours.fileno())
        stack.callback(unit.use, None)
        return unit

    unit = make(stack)
    unit.send(bytes(400_000))
    assert unit.full
    return Trip(unit, make, lambda unit, record: unit.restore(record), lambda unit: unit.full)


@trip("kept connection")
def kept_connection(stack: ExitStack) -> Trip:
    """Two exchanges are complete; its peer does not read, and a message with a descriptor waits."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()
    fd = os.eventfd(0)
    stack.callback(os.close, fd)

    def make(stack: ExitStack) -> KeptConnection:
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        unit = KeptConnection(loop, ours, Nobody(), NO_KEPT, max_fds=8)
        stack.callback(turn, loop)
        stack.callback(unit.close)
        return unit

    unit = make(stack)
    unit.send(b"first")
    turn(loop)
    unit.send(bytes(1_000_000))
    turn(loop)
    unit.send(b"behind", [fd])
    assert [len(fds) for fds in unit.fds] == [0, 1]

    def restore(new: KeptConnection, record: ConnectionRecord) -> None:
        fds = [[os.dup(fd) for fd in each] for each in unit.fds]
        try:
            new.restore(record, fds)
        except RecordError:
            for each in fds:
                close_fds(each)
            raise

    return Trip(unit, make, restore, lambda each: (each.save(), each.fds != []))


@trip("gate of a NIC")
def gate(stack: ExitStack) -> Trip:
    """Clients have to wait after their strikes, and one has not negotiated."""
    clock = FakeScheduler()
    unit = Gate("nic0", clock)
    for _ in range(FREE_STRIKES + 3):
        unit.began(lambda _: None)
        unit.ended(violated=True)
    clock.advance(0.01)
    unit.began(lambda _: None)
    clock.advance(0.01)
    return Trip(
        unit,
        lambda _: Gate("nic0", clock),
        lambda new, record: new.restore(record, 0, lambda _: None),
        lambda each: (each.save(), each.delay()),
    )

"""vhost-user netdevs: one whose back-end is ready, one that waits, and a back-end that has a guest's rings."""

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
from tests.fakes.trips import Trip, trip
from tests.fakes.vhost_user_backend import FakeBackend
from tests.fakes.virtio_lab import VirtioLab

from vnic.backend.base import BackendContext
from vnic.backend.options import VhostUserOptions
from vnic.backend.vhost_user import (
    BackendState,
    VhostUserBackend,
    VhostUserBackendRecord,
    VhostUserHandles,
)
from vnic.backend.vhost_user_session import BackEndHandles, BackEndSession, BackEndSessionRecord
from vnic.chardev.options import SocketOptions
from vnic.chardev.table import Chardevs
from vnic.descriptors import close_fds
from vnic.net.network import Network
from vnic.record import RecordError
from vnic.sockets.address import UnixAddress


class Lab:
    """Netdevs on one loop, each with a chardev that connects to the same path."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop = stack.enter_context(asyncio.Runner()).get_loop()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.path = str(folder / "backend")

    def unit(self, stack: ExitStack, *, start: bool = False) -> VhostUserBackend:
        network = Network(self.loop)

        def end() -> None:
            network.close()
            turn(self.loop)

        stack.callback(end)
        chardevs = Chardevs()
        chardevs.add(SocketOptions(id="c0", addr=UnixAddress(path=self.path), reconnect_ms=3_600_000))
        context = BackendContext(self.loop, network, chardevs)
        unit = VhostUserBackend(context, VhostUserOptions(id="net0", chardev="c0"))
        network.add_netdev("net0", "vhost-user", unit, start=None if start else lambda: None)
        return unit

    def trip(self, unit: VhostUserBackend) -> Trip:
        def restore(new: VhostUserBackend, record: VhostUserBackendRecord) -> None:
            sock = unit.handles.sock
            ours = None if sock is None else sock.dup()
            try:
                new.restore(record, VhostUserHandles(None, ours, unit.handles.session))
            except RecordError:
                if ours is not None:
                    ours.close()
                raise

        now = self.loop.time()
        self.loop.time = lambda: now  # type: ignore[method-assign]  # or two looks at a timer would differ
        return Trip(unit, self.unit, restore, lambda unit: (unit.save(), unit.state, unit.ring_features))


@trip("vhost-user netdev with a back-end")
def ready(stack: ExitStack) -> Trip:
    lab = Lab(stack)
    far = FakeBackend(lab.loop, lab.path)
    stack.callback(far.close)
    unit = lab.unit(stack, start=True)
    until(lab.loop, lambda: unit.state is BackendState.UP)
    return lab.trip(unit)


@trip("vhost-user netdev without a back-end")
def absent(stack: ExitStack) -> Trip:
    """It waits for the time of its next attempt, after a back-end that it refused."""
    lab = Lab(stack)
    far = FakeBackend(lab.loop, lab.path)
    stack.callback(far.close)
    far.hook = lambda name: bytes(12)
    unit = lab.unit(stack, start=True)
    until(lab.loop, lambda: unit.save().complaint and unit.state is BackendState.ABSENT)
    return lab.trip(unit)


class Owner:
    """Keeps what a session says."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def ready(self, features: int) -> None:
        self.said.append(features)

    def refuse(self, reason: str) -> None:
        self.said.append(reason)

    def lost(self, reason: str | None) -> None:
        self.said.append(reason)

    def rings_returned(self) -> None:
        self.said.append("returned")


def has_rings(stack: ExitStack, then: Callable[[BackEndSession, FakeBackend], None]) -> Trip:
    """A session whose back-end has the rings of a virtio-net; `then` brings it further."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()
    rig = stack.enter_context(VirtioLab(memory_bytes=1 << 20, ring_size=16))
    rig.plug()
    device = rig.device
    far = FakeBackend(loop, "", server=False)
    stack.callback(far.drop)

    def session(stack: ExitStack, sock: socket.socket) -> BackEndSession:
        unit = BackEndSession(Owner(), loop, sock, "net0", 1)
        stack.callback(unit.close)
        return unit

    ours, theirs = socket.socketpair()
    far.adopt(theirs)
    unit = session(stack, ours)
    unit.begin()
    until(loop, lambda: far.count("SET_OWNER"))
    turn(loop, 10)
    assert unit.take_rings(device)
    then(unit, far)

    def make(stack: ExitStack) -> BackEndSession:
        return session(stack, ours.dup())

    def restore(new: BackEndSession, record: BackEndSessionRecord) -> None:
        assert device.attached
        output = [[os.dup(fd) for fd in each] for each in unit.handles.output]
        try:
            new.restore(record, BackEndHandles(output, (), device, rig.driver, device.memory))
        except RecordError:
            for each in output:
                close_fds(each)
            raise

    def observe(unit: BackEndSession) -> Any:
        return unit.has_rings, unit.wanted, unit.save(), len(unit.handles.output)

    return Trip(unit, make, restore, observe)


@trip("back-end that has rings")
def running(stack: ExitStack) -> Trip:
    """It has not read yet that it has them: nothing is acknowledged."""
    return has_rings(stack, lambda unit, far: None)


@trip("back-end that returns rings")
def stopping(stack: ExitStack) -> Trip:
    """It has acknowledged all, and does not tell the bases."""

    def stop(unit: BackEndSession, far: FakeBackend) -> None:
        until(far.loop, lambda: far.count("SET_VRING_KICK") == 2)
        turn(far.loop, 10)
        far.hook = lambda name: b"" if name == "GET_VRING_BASE" else None
        unit.give_back(lambda bases: None)

    return has_rings(stack, stop)

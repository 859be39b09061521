"""Both ends of a vhost-user connection: rings, notices, engines in the middle of their work."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Any

from tests.fakes.front_end import FrontEnd, ring
from tests.fakes.kept import FakeKeep, mapped
from tests.fakes.loops import turn, until
from tests.fakes.ring_backend import FakeRingBackend
from tests.fakes.trips import Trip, trip
from tests.fakes.vhost_user_rig import EngineRig, NicRig

from vnic.attach.vhost_user.attachment import VhostUserAttachment, VhostUserAttachmentRecord
from vnic.attach.vhost_user.session import (
    VhostUserSession,
    VhostUserSessionHandles,
    VhostUserSessionRecord,
)
from vnic.descriptors import close_fds
from vnic.lab.played.vhost_user_client import SocketWire, VhostUserClient
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.backend import BackendEngine
from vnic.protocol.vhost_user.backend_record import BackendEngineRecord, BackendHandles
from vnic.protocol.vhost_user.frontend import FrontendEngine
from vnic.protocol.vhost_user.notices import ConfigNotices
from vnic.protocol.vhost_user.ring import RingFds
from vnic.protocol.vhost_user.rings import DeviceRings, DeviceRingsRecord
from vnic.record import RecordError


def rig_of(stack: ExitStack) -> EngineRig:
    rig = EngineRig()
    stack.callback(rig.close)
    return rig


@trip("vhost-user rings")
def rings(stack: ExitStack) -> Trip:
    """One ring runs, one is started and not enabled, one has only been told its size."""
    rig = rig_of(stack)
    rig.client.negotiate()
    rig.client.set_memory()
    for each in rig.driver.rings[:2]:
        rig.client.start_ring(each)
    rig.client.enable(rig.driver.rings[0])
    rig.client.send_state(8, 2, 64)  # SET_VRING_NUM
    held = rig.engine.rings
    watched: dict[int, dict[int, int]] = {}

    def make(stack: ExitStack) -> DeviceRings:
        fresh = rig_of(stack)
        kicks: dict[int, int] = {}

        def watch(index: int, fd: int | None) -> None:
            kicks.pop(index, None)
            if fd is not None:
                kicks[index] = fd

        unit = DeviceRings(fresh.device, rig.served, watch, lambda: None)
        watched[id(unit)] = kicks
        stack.callback(unit.forget)
        return unit

    def restore(unit: DeviceRings, record: DeviceRingsRecord) -> None:
        fds = [RingFds(*(None if fd is None else os.dup(fd) for fd in each)) for each in held.fds]
        try:
            unit.restore(record, fds)
        except BaseException:
            for fd in [fd for each in fds for fd in each if fd is not None]:
                os.close(fd)
            raise

    def observe(unit: DeviceRings) -> object:
        kicks = watched.get(id(unit), rig.kicks)
        return sorted(kicks), unit.running, unit.descriptors, [(each.state, each.running) for each in unit]

    return Trip(held, make, restore, observe)


@trip("notices of a changed config space")
def notices(stack: ExitStack) -> Trip:
    unit = ConfigNotices()
    unit.changed()
    assert unit.take()
    return Trip(
        unit, lambda _: ConfigNotices(), lambda unit, record: unit.restore(record), lambda unit: unit.notified
    )


@trip("vhost-user connection")
def back_end(stack: ExitStack) -> Trip:
    """A back-end has the rings and was asked for them; one message waits behind that, and half of another is here."""
    far = FakeRingBackend()
    rig = EngineRig(1, far)
    stack.callback(rig.close)
    rig.client.start()
    far.prompt = False
    rig.client.send(vu.GET_VRING_BASE, vu.VRING_STATE.pack(0, 0))
    assert rig.engine.busy
    set_mem_table = vu.encode(vu.SET_MEM_TABLE, vu.MEM_TABLE.pack(1, 0) + rig.client.region())
    rig.engine.feed(set_mem_table, [os.dup(rig.memory.fd)])
    rig.engine.feed(set_mem_table[:20], [os.dup(rig.memory.fd)])
    held = rig.engine.handles

    def make(stack: ExitStack) -> BackendEngine:
        fresh = rig_of(stack)
        return fresh.engine

    def restore(unit: BackendEngine, record: BackendEngineRecord) -> None:
        handles, dups = dup_handles(held)
        try:
            unit.restore(record, handles)
        except RecordError:
            close_fds(dups)
            raise

    def observe(unit: BackendEngine) -> object:
        return unit.busy, unit.wanted, unit.pending, unit.running, unit.descriptors, unit.notices.state

    return Trip(rig.engine, make, restore, observe)


def front_end(unit: FrontEnd) -> Trip:
    handles = unit.engine.handles
    return Trip(
        unit.engine,
        lambda _: FrontEnd(unit.pairs).engine,
        lambda new, record: new.restore(record, handles),
        see_front_end,
    )


def see_front_end(engine: FrontendEngine) -> object:
    return (
        (engine.phase, engine.awaited, engine.wanted, engine.rings),
        (engine.features, engine.protocol_features, engine.max_pairs),
    )


@trip("vhost-user front-end in its handshake")
def front_end_begins(stack: ExitStack) -> Trip:
    """Half an answer is here."""
    unit = FrontEnd(2)
    unit.engine.begin()
    unit.engine.feed(unit.answer())
    unit.engine.feed(unit.answer()[:15])
    return front_end(unit)


@trip("vhost-user front-end that starts")
def front_end_starts(stack: ExitStack) -> Trip:
    """One of its messages is acknowledged; one ring was disabled again, another has no kick."""
    unit = FrontEnd(2)
    unit.shake_hands()
    unit.start()
    unit.engine.feed(unit.answer())
    unit.engine.enable_ring(2, False)
    unit.engine.set_ring(ring(3, enabled=False))
    return front_end(unit)


@trip("vhost-user front-end that stops")
def front_end_stops(stack: ExitStack) -> Trip:
    """One of the bases is here."""
    unit = FrontEnd(1)
    unit.shake_hands()
    unit.start()
    unit.engine.stop()
    while len(unit.due) > 1:
        unit.engine.feed(unit.answer())
    return front_end(unit)


def dup_handles(held: BackendHandles) -> tuple[BackendHandles, list[int]]:
    """Copies, and which descriptors to close if they are refused."""
    dups: list[int] = []

    def dup(fd: int | None) -> int | None:
        if fd is not None:
            dups.append(os.dup(fd))
        return None if fd is None else dups[-1]

    request = dup(held.request)
    rings = [RingFds(*map(dup, each)) for each in held.rings]
    messages = [[fd for fd in map(dup, each) if fd is not None] for each in held.messages]
    return BackendHandles(request, held.memory, rings, messages), dups


class Host:
    """Has nothing to do with the session's end."""

    def negotiated(self) -> None: ...

    def leaving(self, *, violated: bool) -> None: ...

    def released(self) -> None: ...


@trip("vhost-user client")
def client(stack: ExitStack) -> Trip:
    """Its driver runs, and half of a message is here."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()

    def session(stack: ExitStack, sock: socket.socket) -> tuple[VhostUserSession, NicRig]:
        rig = NicRig(loop)
        stack.callback(rig.close)
        unit = VhostUserSession(Host(), loop, sock, rig.device, rig.nic)

        def end() -> None:
            if unit.serving:
                unit.leave()
            turn(loop)

        stack.callback(end)
        return unit, rig

    ours, theirs = socket.socketpair()
    unit, rig = session(stack, ours)
    unit.begin()
    guest = VhostUserClient(SocketWire(theirs, loop), rig.memory, rig.driver)
    stack.callback(guest.close)
    guest.start()
    until(loop, lambda: unit.engine.running)
    guest.wire.send(vu.encode(vu.GET_STATUS)[:7], [])
    until(loop, lambda: unit.pending)

    def make(stack: ExitStack) -> VhostUserSession:
        mine, other = socket.socketpair()  # the end of a session shuts its socket down
        stack.callback(other.close)
        fresh, _ = session(stack, mine)
        return fresh

    def restore(new: VhostUserSession, record: VhostUserSessionRecord) -> None:
        handles, dups = dup_handles(unit.handles.engine)
        try:
            new.restore(record, VhostUserSessionHandles(handles, ()))
        except RecordError:
            close_fds(dups)
            raise

    return Trip(unit, make, restore, lambda each: (each.save(), each.engine.running, each.shown_by))


class OneKeep(FakeKeep):
    """Has one record."""

    given: Any = None
    why = RecordError("", "")

    def inherited(self, key: str, record: Any, handles: Any) -> Any:
        return self.given

    def refused(self, key: str, error: RecordError) -> None:
        self.why = error


class KeptAttachment:
    """A VhostUserAttachment, as a unit that is saved and restored like the others."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, stack: ExitStack) -> None:
        self.keep = OneKeep()
        self.rig = NicRig(loop)
        stack.callback(self.rig.close)
        self.unit = VhostUserAttachment(self.rig.device, self.rig.nic, path, False, loop, keep=self.keep)

    def save(self) -> VhostUserAttachmentRecord:
        return self.unit.save_kept()[0]

    def restore(self, record: VhostUserAttachmentRecord, handles: object) -> None:
        self.keep.given = record, mapped(handles, os.dup)
        if not self.unit.restore():
            raise self.keep.why

    @property
    def runs(self) -> bool:
        session = self.unit.session
        return session is not None and session.engine.running


@trip("vhost-user attachment with its client")
def attachment(stack: ExitStack) -> Trip:
    """It has connected to the client, whose driver runs."""
    loop = stack.enter_context(asyncio.Runner()).get_loop()
    path = f"{stack.enter_context(TemporaryDirectory())}/vm.sock"
    vm = stack.enter_context(socket.socket(socket.AF_UNIX))
    vm.bind(path)
    vm.listen()
    held = KeptAttachment(loop, path, stack)
    held.unit.start()
    stack.callback(turn, loop)
    stack.callback(held.unit.close)
    theirs, _ = vm.accept()
    guest = VhostUserClient(SocketWire(theirs, loop), held.rig.memory, held.rig.driver)
    stack.callback(guest.close)
    guest.start()
    until(loop, lambda: held.runs)
    handles = held.unit.save_kept()[1]

    def make(stack: ExitStack) -> KeptAttachment:
        fresh = KeptAttachment(loop, path, stack)

        def drop() -> None:
            if fresh.unit.session is not None:
                fresh.unit.session.refuse()

        stack.callback(drop)
        return fresh

    return Trip(
        held,
        make,
        lambda new, record: new.restore(record, handles),
        lambda each: (each.unit.state, each.runs, each.unit.session and each.unit.session.shown_by),
    )

"""A NIC's vhost-user socket that another process takes up: with its client, waiting for one, or closed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from tests.fakes.keeper import FakeKeeper
from tests.fakes.kept_nic import KeptNic
from tests.fakes.loops import fresh_loop, turn, until

from vnic.attach.attachment import AttachmentState
from vnic.attach.gate import FREE_STRIKES
from vnic.attach.vhost_user.attachment import VhostUserAttachmentHandles
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import (
    QEMU_NETDEV_PROTOCOL_FEATURES,
    UML_PROTOCOL_FEATURES,
    Disconnected,
    SocketWire,
    VhostUserClient,
)
from vnic.protocol.vhost_user import messages as vu
from vnic.state.keep import StoredKeep

pytestmark = pytest.mark.in_a_child


class Life:
    """A control, its keeper and a guest; `restart` has another control take the place of a killed one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, *, server: bool = True) -> None:
        self.loop = loop
        self.path = str(path)
        self.server = server
        self.keeper = FakeKeeper()
        self.keep = self._keep()
        self.nic = self._nic()
        self.before: list[KeptNic] = []
        self.clients: list[VhostUserClient] = []
        self.memory = FakeGuestMemory(4 << 20)
        self.driver = NetDriver(self.memory)

    def _keep(self) -> StoredKeep:
        return self.keeper.start(self.loop.call_soon)

    def _nic(self) -> KeptNic:
        return KeptNic(self.loop, self.keep, self.path, server=self.server)

    def connect(self, features: int = UML_PROTOCOL_FEATURES) -> VhostUserClient:
        return self.adopt(SocketWire.connect(self.path, self.loop), features)

    def adopt(self, wire: SocketWire, features: int = UML_PROTOCOL_FEATURES) -> VhostUserClient:
        client = VhostUserClient(wire, self.memory, self.driver)
        self.clients.append(client)
        client.start(features)
        turn(self.loop)
        return client

    def kill(self) -> None:
        """The process does nothing any more; what it has open is closed at the end of the test, as it has duplicates
        in the keeper."""
        self.keep._active = False
        self.before.append(self.nic)
        attachment = self.nic.attachment
        if attachment._listener is not None:
            self.loop.remove_reader(attachment._listener._fd)
        session = attachment.session
        if session is not None:
            self.loop.remove_reader(session._connection._fd)
            for ring in session.engine.rings:
                session.watch_kick(ring.index, None)
            session.memory.on_change.clear()
        for queue in self.nic.device.queues:
            queue.invalidate()

    def restart(self) -> None:
        self.kill()
        self.keep = self._keep()
        self.nic = self._nic()
        turn(self.loop)

    def answers(self, client: VhostUserClient) -> bool:
        return client.ask_u64(vu.GET_QUEUE_NUM) > 0

    def close(self) -> None:
        for client in self.clients:
            client.close()
        turn(self.loop)
        self.nic.close()
        turn(self.loop)
        for each in self.before:
            self._close_killed(each)
        self.driver.close()
        self.memory.close()
        self.keeper.close()

    def _close_killed(self, nic: KeptNic) -> None:
        attachment = nic.attachment
        session = attachment.session
        if session is not None and session.serving:
            session.refuse()
        listener = attachment._listener
        if listener is not None:
            listener._sock.close()
            path = listener.listening.path
            if path is not None and path.lock is not None:
                with suppress(OSError):
                    os.close(path.lock)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with fresh_loop() as loop:
        yield loop


@pytest.fixture
def life(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[Life]:
    made = Life(loop, tmp_path / "nic0.sock")
    yield made
    made.close()


def test_client_stays_connected_and_its_driver_runs(life: Life) -> None:
    client = life.connect()
    life.driver.fill_rx(4)
    for _ in range(3):
        life.restart()
        assert not life.nic.anew
        assert life.answers(client)
        life.driver.send(bytes(60))
        until(life.loop, lambda: life.nic.sink.frames == [bytes(60)])
    life.nic.netdev.send(0, bytes(61))
    turn(life.loop)
    assert life.driver.received() == [bytes(61)]
    assert life.nic.nic.guest.attached


def test_no_change_of_the_link_is_told_that_nobody_ordered(life: Life) -> None:
    client = life.connect()
    assert client.link_up()
    life.restart()
    assert client.config_changes() == 0
    life.nic.set_link(False)
    turn(life.loop)
    life.restart()
    assert client.config_changes() == 1
    assert not client.link_up()


def test_message_that_the_killed_process_had_not_read_is_answered_once(life: Life) -> None:
    client = life.connect()
    data = vu.encode(vu.GET_QUEUE_NUM)
    assert isinstance(client.wire, SocketWire)
    client.wire.sock.send(data)
    life.restart()
    assert len(client.wire.receive(20)) == 20
    assert not client.wire.closed()


def test_waiting_socket_takes_the_next_client(life: Life) -> None:
    found = os.stat(life.path)
    life.restart()
    assert os.path.samestat(os.stat(life.path), found), "it was not made again"
    assert life.nic.attachment.state is AttachmentState.WAITING
    client = life.connect()
    assert life.answers(client)
    assert os.path.exists(life.path + ".lock")


def test_client_in_the_backlog_is_taken(life: Life) -> None:
    life.kill()
    wire = SocketWire.connect(life.path)
    wire.sock.settimeout(0.0)
    life.keep = life._keep()
    life.nic = life._nic()
    turn(life.loop)
    wire.loop = life.loop
    assert life.answers(life.adopt(wire))


def test_socket_whose_path_is_gone_listens_anew(life: Life) -> None:
    """The killed process had removed it, and not saved that."""
    os.unlink(life.path)
    life.restart()
    assert life.answers(life.connect())


def test_client_that_sees_the_link_by_the_socket_finds_it_closed_while_the_link_is_down(life: Life) -> None:
    client = life.connect(QEMU_NETDEV_PROTOCOL_FEATURES)
    life.restart()
    assert life.answers(client)
    life.nic.set_link(False)
    turn(life.loop)
    with pytest.raises(Disconnected):
        client.wire.receive(1)
    life.restart()
    assert life.nic.attachment.state is AttachmentState.WITHHELD
    assert not os.path.exists(life.path)
    life.nic.set_link(True)
    turn(life.loop)
    assert life.answers(life.connect(QEMU_NETDEV_PROTOCOL_FEATURES))


def test_ordered_change_reaches_a_client_by_socket_also_if_the_process_died_before(life: Life) -> None:
    client = life.connect(QEMU_NETDEV_PROTOCOL_FEATURES)
    life.nic.device.attachment.link_changed = lambda up: None  # type: ignore[method-assign]
    life.nic.set_link(False)
    life.restart()
    assert isinstance(client.wire, SocketWire)
    until(life.loop, client.wire.closed)


def test_client_that_was_connected_to_is_kept_and_after_it_the_next_one(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    """attach.server=off: the NIC connects to the VM."""
    import socket

    path = tmp_path / "vm.sock"
    with socket.socket(socket.AF_UNIX) as vm:
        vm.bind(str(path))
        vm.listen()
        life = Life(loop, path, server=False)
        sock, _ = vm.accept()
        client = life.adopt(SocketWire(sock, loop))
        life.restart()
        assert life.answers(client)
        client.close()
        turn(loop)
        life.restart()
        sock, _ = vm.accept()
        assert life.answers(life.adopt(SocketWire(sock, loop)))
        life.close()


def test_client_that_has_not_negotiated_is_still_given_up_for_another(life: Life) -> None:
    silent = SocketWire.connect(life.path, life.loop)
    life.restart()
    assert life.nic.attachment.save_kept()[0].attachment.gate.handshake_us is not None
    other = SocketWire.connect(life.path, life.loop)
    until(life.loop, silent.closed)
    assert life.nic.attachment._gate._strikes == 1
    assert life.answers(life.adopt(other))
    silent.close()


def test_strikes_outlive_the_process(life: Life) -> None:
    for _ in range(FREE_STRIKES + 2):
        SocketWire.connect(life.path, life.loop).close()
        turn(life.loop)
        life.nic.attachment._gate._until = 0.0
    assert life.nic.attachment._gate._strikes > FREE_STRIKES
    SocketWire.connect(life.path, life.loop).close()
    turn(life.loop)
    life.restart()
    assert life.nic.attachment._gate._strikes > FREE_STRIKES
    assert life.nic.attachment._gate.delay() >= 0


@pytest.mark.parametrize("key", ["vm/nic0", "nic/nic0"])
def test_state_that_is_refused_costs_the_client_its_connection_and_the_nic_nothing(
    life: Life, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    """One line in the log says why; the socket is the same."""
    client = life.connect()
    kept = life.keep._units[key]
    saved = kept.unit.save_kept

    def spoiled() -> object:
        record, handles = saved()
        if key == "vm/nic0":
            engine = msgspec.structs.replace(record.session.engine, protocol_features=1 << 63)  # type: ignore[attr-defined]
            session = msgspec.structs.replace(record.session, engine=engine)  # type: ignore[attr-defined]
            return msgspec.structs.replace(record, session=session), handles
        device = msgspec.structs.replace(record.device, host_features=record.device.host_features | 1 << 63)  # type: ignore[attr-defined]
        return msgspec.structs.replace(record, device=device), handles

    kept.unit.save_kept = spoiled  # type: ignore[method-assign, assignment]
    kept.changed()
    turn(life.loop)
    with caplog.at_level(logging.INFO):
        life.restart()
    assert life.nic.anew
    (line,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    field = "session.engine.protocol_features" if key == "vm/nic0" else "device.host_features"
    assert line.startswith(f"{key}: ")
    assert field in line
    with pytest.raises(Disconnected):
        client.wire.receive(1)
    assert not life.nic.nic.guest.attached
    life.nic.attachment.go_on()
    again = life.connect()
    assert life.answers(again)
    assert again.link_up()


@pytest.mark.parametrize("field", ["sock", "outbox"])
def test_descriptors_that_are_none_of_a_connection_are_refused(life: Life, field: str) -> None:
    life.connect()
    kept = life.keep._units["vm/nic0"]
    saved = kept.unit.save_kept
    spoiled = os.eventfd(0)

    def swapped() -> object:
        record, handles = saved()
        assert isinstance(handles, VhostUserAttachmentHandles)
        assert handles.client is not None
        sock = spoiled if field == "sock" else handles.client.sock
        outbox = spoiled if field == "outbox" else handles.client.outbox
        return record, handles._replace(client=handles.client._replace(sock=sock, outbox=outbox))

    kept.unit.save_kept = swapped  # type: ignore[method-assign, assignment]
    kept.handles_changed()
    turn(life.loop)
    life.restart()
    os.close(spoiled)
    assert life.nic.anew
    assert life.answers(life.connect())

"""The socket that serves a NIC: who gets in, what is carried, what a broken client costs, and what is left over."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.loops import fresh_loop, no_fd_leak, turn, until
from tests.fakes.vhost_user_rig import SocketRig, closed_by_device

from vnic.attach import gate
from vnic.attach.attachment import AttachmentState
from vnic.attach.session import SessionState
from vnic.attach.vhost_user.kicks import SPURIOUS_KICKS
from vnic.lab.played.vhost_user_client import (
    QEMU_NETDEV_PROTOCOL_FEATURES,
    Disconnected,
    SocketWire,
    VhostUserClient,
)
from vnic.net.announce import rarp_frame
from vnic.net.errors import NetError
from vnic.protocol.vhost_user import messages as vu
from vnic.quota import QUOTA
from vnic.sockets.resolve import check_path

FRAME = bytes(range(64)) * 2


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SocketRig]:
    with fresh_loop() as loop, no_fd_leak():
        made = SocketRig(loop, tmp_path / "nic0.sock")
        try:
            yield made
        finally:
            made.close()


def transmit(rig: SocketRig, frame: bytes = FRAME) -> list[bytes]:
    rig.sink.frames.clear()
    rig.driver.send(frame)
    rig.serve()
    return rig.sink.frames


# --- The path ------------------------------------------------------------------------------------------------


def test_socket_path_exists_while_served(rig: SocketRig) -> None:
    rig.attachment.start()
    found = os.stat(rig.path)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    rig.attachment.close()
    assert not os.path.exists(rig.path)


def test_stale_socket_is_replaced(rig: SocketRig) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(rig.path)
    rig.attachment.start()
    rig.connect().negotiate()


def test_a_path_in_use_is_refused(rig: SocketRig) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(rig.path)
        other.listen()
        with pytest.raises(NetError, match="another program listens there already"):
            rig.attachment.start()


def test_a_path_that_is_no_socket_is_refused(rig: SocketRig) -> None:
    Path(rig.path).write_text("mine")
    with pytest.raises(NetError, match="a plain file is there"):
        rig.attachment.start()
    assert Path(rig.path).read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "text"),
    [("x" * 108, "too long"), ("", "empty"), ("a\0b", "NUL")],
)
def test_invalid_path_is_refused(path: str, text: str) -> None:
    with pytest.raises(NetError, match=text):
        check_path(path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with fresh_loop() as loop, no_fd_leak():
        rig = SocketRig(loop, tmp_path / "missing" / "nic0.sock")
        with pytest.raises(NetError, match="No such file or directory"):
            rig.attachment.start()
        rig.close()


def test_close_keeps_socket_of_other_program(rig: SocketRig) -> None:
    rig.attachment.start()
    os.unlink(rig.path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(rig.path)
        rig.attachment.close()
        assert os.path.exists(rig.path)


# --- Clients -------------------------------------------------------------------------------------------------


def test_frames_and_interrupts_both_ways(rig: SocketRig) -> None:
    rig.attachment.start()
    rig.connect().start()
    assert rig.nic.guest.attached
    assert rig.nic.guest.driver_ok
    assert transmit(rig) == [FRAME]
    rig.driver.fill_rx(4)
    rig.serve()
    assert rig.netdev.send(0, b"from outside" * 10)
    rig.serve()
    assert rig.driver.rings[0].calls() > 0
    assert rig.driver.received() == [b"from outside" * 10]


def test_rarp_is_sent_for_guest_without_announce(rig: SocketRig) -> None:
    """QEMU's announce-self, where the guest's driver has no GUEST_ANNOUNCE."""
    rig.attachment.start()
    client = rig.connect()
    client.start(QEMU_NETDEV_PROTOCOL_FEATURES | vu.P_RARP)
    mac = bytes.fromhex("525400998877")
    assert client.acked(vu.SEND_RARP, mac + bytes(2)) == 0
    assert rig.sink.frames == [rarp_frame(mac)]


def test_second_client_is_refused_and_first_continues(
    rig: SocketRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.attachment.start()
    first = rig.connect()
    first.start()
    for _ in range(3):
        with caplog.at_level(logging.WARNING):
            assert closed_by_device(rig.connect())
    assert caplog.text.count("refused a second vhost-user client") == 3
    assert first.link_up()
    assert transmit(rig) == [FRAME]


def test_silent_client_is_replaced_by_next(
    rig: SocketRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "CONTESTED_S", 0.01)
    rig.attachment.start()
    silent = rig.connect()
    other = rig.connect()
    until(rig.loop, lambda: closed_by_device(silent))
    assert "it did not negotiate, and another client waits" in caplog.text
    until(rig.loop, lambda: rig.attachment.state is AttachmentState.ATTACHED)
    other.negotiate()


def test_next_client_is_served(rig: SocketRig) -> None:
    rig.attachment.start()
    for _ in range(3):
        client = rig.connect()
        client.start()
        assert transmit(rig) == [FRAME]
        client.close()
        assert not rig.nic.guest.attached
        assert not rig.nic.guest.driver_ok
        for ring in rig.driver.rings:
            ring.restart()


def test_closed_client_does_not_block_next(rig: SocketRig) -> None:
    """A VM that is killed and started again while we were busy: its end and the next one's coming are one event."""
    rig.attachment.start()
    rig.connect().negotiate()
    rig.clients[0].close()
    wires = [SocketWire.connect(rig.path) for _ in range(3)]
    for wire in wires[:2]:
        wire.close()
    wires[2].loop = rig.loop
    wires[2].sock.setblocking(False)
    rig.adopt(wires[2]).negotiate()


def test_reconnected_client_resumes_at_used_idx(rig: SocketRig) -> None:
    """The guest lives on while its front-end reconnects: its rings keep their indices."""
    rig.attachment.start()
    for lost in range(3):
        client = rig.connect()
        client.start()
        assert transmit(rig) == [FRAME]
        assert rig.driver.rings[1].used_idx == lost + 1
        client.close()


def test_close_disconnects_client(rig: SocketRig) -> None:
    rig.attachment.start()
    client = rig.connect()
    client.start()
    rig.attachment.close()
    assert closed_by_device(client)
    assert not rig.nic.guest.attached
    assert rig.attachment.state is AttachmentState.CLOSED
    with pytest.raises(OSError, match="No such file"):
        rig.connect()


def test_connect_is_retried_until_server_listens(tmp_path: Path) -> None:
    """attach.server=off, against QEMU -chardev socket,server=on,wait=on or testpmd's server=1."""
    with fresh_loop() as loop, no_fd_leak():
        rig = SocketRig(loop, tmp_path / "vm.sock", server=False)
        rig.attachment.start()
        turn(loop)
        assert rig.attachment.state is AttachmentState.WAITING
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(rig.path)
                server.listen()
                until(loop, lambda: rig.attachment.state is AttachmentState.ATTACHED)
                accepted, _ = server.accept()
            os.unlink(rig.path)
            client = rig.adopt(SocketWire(accepted, loop))
            client.start()
            assert transmit(rig) == [FRAME]
            client.close()
            for ring in rig.driver.rings:
                ring.restart()
        rig.close()


def test_immediate_reconnect_is_shown_as_attached(tmp_path: Path) -> None:
    """attach.server=off: the next connection is made from within the end of the one before."""
    with fresh_loop() as loop, no_fd_leak():
        rig = SocketRig(loop, tmp_path / "vm.sock", server=False)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(rig.path)
            server.listen()
            rig.attachment.start()
            until(loop, lambda: rig.attachment.state is AttachmentState.ATTACHED)
            before = rig.attachment.session
            server.accept()[0].close()
            until(loop, lambda: rig.attachment.session not in (before, None))
            assert rig.nic.guest.attached
            rig.attachment.close()
        rig.close()


# --- Hostile clients -----------------------------------------------------------------------------------------


def truncated_control(client: VhostUserClient) -> None:
    client.send(vu.SET_MEM_TABLE, struct.pack("<II", 8, 0) + bytes(256), [client.memory.fd] * 64)


def cut_in_a_message(client: VhostUserClient) -> None:
    client.wire.send(struct.pack("<III", vu.SET_FEATURES, 1, 8) + b"123", [])
    assert isinstance(client.wire, SocketWire)
    client.wire.sock.shutdown(socket.SHUT_WR)


BROKEN: list[Callable[[VhostUserClient], object]] = [
    lambda client: client.send(vu.GET_FEATURES, b"x"),
    lambda client: client.send(vu.GET_FEATURES, fds=[client.memory.fd]),
    lambda client: client.send(vu.SET_BACKEND_REQ_FD),
    lambda client: client.send(0xFFFF),
    lambda client: client.wire.send(b"GET / HTTP/1.1\r\n\r\n", []),
    lambda client: client.wire.send(struct.pack("<III", vu.GET_FEATURES, 1, 1 << 30), []),
    lambda client: client.send(vu.SET_MEM_TABLE, struct.pack("<II", 1, 0) + bytes(32), [client.memory.fd]),
    lambda client: client.send_u64(vu.SET_VRING_CALL, 0, [client.memory.fd]),
    truncated_control,
    cut_in_a_message,
]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_malformed_message_closes_connection_with_one_log_line(
    rig: SocketRig, broken: Callable[[VhostUserClient], object], caplog: pytest.LogCaptureFixture
) -> None:
    rig.attachment.start()
    with no_fd_leak():
        client = rig.connect()
        client.send(vu.SET_OWNER)
        with caplog.at_level(logging.INFO):
            try:
                broken(client)
            except Disconnected:
                pass
            assert closed_by_device(client)
        told = [record for record in caplog.records if "connected," not in record.message]
        assert len(told) == 1, told
        client.close()
    good = rig.connect()
    good.start()
    assert good.link_up()
    assert transmit(rig) == [FRAME]


def test_closed_socketpair_kick_does_not_spin(rig: SocketRig) -> None:
    """A socket in an eventfd's place whose other end closes is readable for ever."""
    rig.attachment.start()
    client = rig.connect()
    client.negotiate()
    client.set_memory()
    ours, theirs = socket.socketpair()
    client.set_up_ring(rig.driver.rings[1])
    client.send_u64(vu.SET_VRING_KICK, 1, [theirs.fileno()])
    client.enable(rig.driver.rings[1])
    theirs.close()
    ours.send(bytes(8))  # as UML kicks a socketpair
    ours.close()
    rig.serve(10)
    assert rig.attachment.session is not None
    assert rig.attachment.session._kicks._watched == {}
    assert client.link_up()


def test_semaphore_kick_does_not_spin(rig: SocketRig) -> None:
    """EFD_SEMAPHORE: each read takes one, of as many as its owner has written at once."""
    rig.attachment.start()
    client = rig.connect()
    client.start()
    endless = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
    os.eventfd_write(endless, 1 << 40)
    client.send_u64(vu.SET_VRING_KICK, 1, [endless])
    rig.serve(2 * SPURIOUS_KICKS)
    taken = (1 << 40) - _counter(endless)
    assert SPURIOUS_KICKS <= taken < SPURIOUS_KICKS + 100
    os.close(endless)
    rig.driver.send(FRAME)
    until(rig.loop, lambda: rig.sink.frames == [FRAME])  # it still is a kick


def _counter(eventfd: int) -> int:
    info = Path(f"/proc/self/fdinfo/{eventfd}").read_text()
    (value,) = re.findall(r"eventfd-count:\s*([0-9a-f]+)", info)
    return int(value, 16)


def test_invalid_kick_descriptor_affects_only_its_client(rig: SocketRig) -> None:
    rig.attachment.start()
    client = rig.connect()
    client.negotiate()
    client.set_memory()
    client.set_up_ring(rig.driver.rings[1])
    odd = os.pidfd_open(os.getpid())  # an inode without a type on older kernels, a regular file on newer ones
    client.send_u64(vu.SET_VRING_KICK, 1, [odd])
    os.close(odd)
    assert closed_by_device(client)
    other = rig.connect()
    until(rig.loop, lambda: rig.attachment.state is AttachmentState.ATTACHED)
    assert other.ask_u64(vu.GET_FEATURES)


def test_client_that_reads_no_replies_blocks_only_itself(rig: SocketRig) -> None:
    rig.attachment.start()
    client = rig.connect()
    client.negotiate()
    assert isinstance(client.wire, SocketWire)
    request = vu.encode(vu.GET_CONFIG, struct.pack("<III", 0, 256, 0))
    sent = 0
    for _ in range(200):
        try:
            sent += client.wire.sock.send(request * 64)
        except BlockingIOError:
            pass
        turn(rig.loop, 1)
    answered = client.wire.receive(sent // len(request) * (12 + 12 + 256))
    assert len(answered) > 1 << 20
    client.send(vu.SET_OWNER)
    assert rig.attachment.state is AttachmentState.ATTACHED


def test_many_clients_leak_no_descriptors(rig: SocketRig) -> None:
    rig.attachment.start()
    sessions = []
    with no_fd_leak():
        for number in range(50):
            client = rig.connect()
            client.negotiate()
            client.set_memory()
            sessions.append(rig.attachment.session)
            if number % 2:
                client.start_rings()
                for ring in rig.driver.rings:
                    ring.restart()
            client.close()
    for session in sessions:
        assert session is not None
        assert session.state is SessionState.RELEASED
        assert session._kicks._watched == {}


def test_undeliverable_interrupt_is_dropped(rig: SocketRig) -> None:
    rig.attachment.start()
    client = rig.connect()
    client.start()
    ours, theirs = socket.socketpair()
    client.send_u64(vu.SET_VRING_CALL, 1, [theirs.fileno()])
    theirs.close()
    session = rig.attachment.session
    assert session is not None
    for _ in range(2000):
        session.queue_interrupt(1)  # nobody reads: at some point the socket is full
    ours.close()
    session.queue_interrupt(1)
    assert client.link_up()


def test_broken_ring_signals_error_and_needs_reset(rig: SocketRig, caplog: pytest.LogCaptureFixture) -> None:
    """SET_VRING_ERR's descriptor, and NEEDS_RESET where the client speaks STATUS."""
    caplog.set_level(
        logging.CRITICAL, "vnic.virtio.device"
    )  # a record kept here would keep the guest's memory
    rig.attachment.start()
    client = rig.connect()
    features = vu.P_STATUS | vu.P_CONFIG | vu.P_BACKEND_REQ
    error = os.eventfd(0, os.EFD_NONBLOCK)
    client.negotiate(features)
    client.set_memory()
    client.start_rings()
    client.send_u64(vu.SET_VRING_ERR, 1, [error])
    client.send_u64(vu.SET_STATUS, 15)
    tx = rig.driver.rings[1]
    tx.offer(9999)
    tx.publish()
    rig.serve(10)
    assert os.eventfd_read(error) >= 1
    assert client.ask_u64(vu.GET_STATUS) & 64
    assert client.config_changes() == 1
    os.close(error)


# --- How many descriptors ------------------------------------------------------------------------------------


def test_descriptors_per_client_are_limited(
    rig: SocketRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(QUOTA, "_limit", lambda: 64)  # 48 for guests, 24 for one
    rig.attachment.start()
    client = rig.connect()
    client.negotiate()  # with the request channel

    def add(at: int) -> None:
        row = struct.pack("<QQQQQ", 0, at << 12, 1 << 12, at << 12, 0)
        client.send(vu.ADD_MEM_REG, row, [rig.memory.fd])

    for at in range(11):
        add(at)
    assert client.ask_u64(vu.GET_FEATURES)
    assert QUOTA.held("nic0") == 23
    add(11)
    assert closed_by_device(client)
    assert QUOTA.held("nic0") == 0
    warnings = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert warnings == [
        "nic0: vhost-user client left: 25 descriptors are above the limit of 24 for one guest"
    ]
    rig.connect().start()
    assert transmit(rig) == [FRAME]


def test_replaced_descriptors_are_not_counted(rig: SocketRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QUOTA, "_limit", lambda: 64)
    rig.attachment.start()
    client = rig.connect()
    client.start()
    held = QUOTA.held("nic0")
    for _ in range(50):
        for ring in rig.driver.rings:
            client.send_u64(vu.SET_VRING_CALL, ring.index, [ring.call_fd])
            client.send_u64(vu.SET_VRING_KICK, ring.index, [ring.kick_fd])
        client.open_requests()
        client.set_memory()
    assert client.ask_u64(vu.GET_FEATURES)
    assert QUOTA.held("nic0") == held
    assert transmit(rig) == [FRAME]

"""Tests of back-ends that crash, hang, send false data or flood: only their wire suffers, and the hold has the
cause."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.loops import fresh_loop, no_fd_leak, run_for, until
from tests.fakes.vhost_user_backend import FEATURES, FakeBackend
from tests.fakes.vhost_user_wire import WireRig

from vnic.backend import vhost_user, vhost_user_session
from vnic.descriptors import Kind, kind_of
from vnic.net.client import Endpoint
from vnic.nic.virtio_net.features import CTRL_VQ
from vnic.protocol.vhost_user import messages as vu
from vnic.virtio.device_record import DataPath

HANDSHAKE = ["GET_FEATURES", "GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES", "GET_QUEUE_NUM", "SET_OWNER"]
RING = ["SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_CALL", "SET_VRING_KICK"]
START = ["SET_FEATURES", "SET_MEM_TABLE", *RING, "SET_VRING_ENABLE", "SET_STATUS"]
ALL = len(HANDSHAKE) + len(START) + len(RING) + 1
"""Messages until both rings run."""

PATIENCE_S = 60.0
REPLY = struct.Struct("<IIIQ")
TOO_MANY_PAIRS = "the guest uses 2 queue pairs, the netdev has queues=1"


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhost_user, "UNFIT_PAUSE_S", 0.01)
    monkeypatch.setattr(vhost_user_session, "ANSWER_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(vhost_user_session, "STOP_TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def impatient_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhost_user_session, "STOP_TIMEOUT_S", 0.03)


def recovers(rig: WireRig, backend: FakeBackend) -> None:
    """The back-end behaves correctly from now on; the link comes up and the rings are started."""
    backend.hook = lambda name: None
    backend.cut_at = None
    # A busy machine may keep it waiting; the fixture puts back what was.
    vhost_user_session.ANSWER_TIMEOUT_S = vhost_user_session.STOP_TIMEOUT_S = PATIENCE_S
    guest = rig.guest
    assert guest is not None
    # A session that began with the shorter timeout may still end by it.
    until(rig.loop, lambda: rig.serves(DataPath.TAKEN) and rig.nic.link_up and guest.link_up())


@pytest.mark.parametrize("number", range(1, ALL + 1))
def test_disconnect_at_each_message(
    rig: WireRig, backend: FakeBackend, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    backend.cut_at = number
    rig.boot()
    until(rig.loop, lambda: "the back-end closed the connection" in caplog.text)
    recovers(rig, backend)


@pytest.mark.parametrize("number", [1, 2])
def test_disconnect_at_each_message_of_stop(rig: WireRig, backend: FakeBackend, number: int) -> None:
    rig.boot()
    rig.wait_up()
    backend.cut_at = len(backend.messages) + number
    rig.network.set_link("nic0", False, "test")
    until(rig.loop, lambda: rig.serves(DataPath.DISCARD))
    rig.network.set_link("nic0", True, "test")
    recovers(rig, backend)


@pytest.mark.parametrize(
    "name", ["GET_FEATURES", "GET_PROTOCOL_FEATURES", "GET_QUEUE_NUM", "SET_FEATURES", "SET_MEM_TABLE"]
)
def test_missing_answer_times_out(
    rig: WireRig,
    backend: FakeBackend,
    name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vhost_user_session, "ANSWER_TIMEOUT_S", 0.03)
    backend.hook = lambda _: b"" if name in backend.messages else None
    rig.boot()
    until(rig.loop, lambda: f"did not answer {name} within" in caplog.text)
    backend.messages.clear()
    recovers(rig, backend)


def test_timeout_of_memory_grows_with_its_size(
    rig: WireRig, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vhost_user_session, "MEMORY_TIMEOUT_S_PER_GIB", 1000.0 * (1 << 30) / rig.memory.size)
    rig.wait_up()

    def hook(name: str) -> bytes | None:
        monkeypatch.setattr(vhost_user_session, "ANSWER_TIMEOUT_S", 0.3)  # for what is asked from now on
        return b"" if "SET_MEM_TABLE" in backend.messages else None

    backend.hook = hook
    rig.boot()
    until(rig.loop, lambda: backend.count("SET_VRING_KICK") == 2)
    run_for(rig.loop, 0.6)
    assert rig.nic.link_up, "it was cut off while it mapped the memory"
    monkeypatch.setattr(vhost_user_session, "ANSWER_TIMEOUT_S", PATIENCE_S)
    for number in (vu.SET_MEM_TABLE, vu.SET_VRING_ADDR, vu.SET_VRING_ADDR):
        backend.send(REPLY.pack(number, 5, 8, 0))
    until(rig.loop, lambda: rig.serves(DataPath.TAKEN))
    assert backend.connections == 1


@pytest.mark.usefixtures("impatient_stop")
def test_unreturned_rings_are_taken_back_after_timeout(
    rig: WireRig, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """The guest waits at most for the time limit, and then runs without the back-end."""
    guest = rig.boot()
    rig.wait_up()
    backend.hook = lambda name: b"" if name == "GET_VRING_BASE" else None
    assert guest.stop_ring(rig.driver.rings[0]) == 0
    assert "did not answer GET_VRING_BASE" in caplog.text


def test_unwatchable_kick_at_ring_return_disconnects_guest(
    rig: WireRig, backend: FakeBackend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a back-end has the ring, vnic does not watch its kick, so the error is found only afterwards."""
    guest = rig.boot()
    rig.wait_up()
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    guest.send_u64(vu.SET_VRING_KICK, 0, [eventfd])
    rig.settle()

    add_reader = rig.loop.add_reader

    def no_eventfds(fd: int, callback: Callable[..., object], *arguments: object) -> None:
        if isinstance(fd, int) and kind_of(fd) is Kind.EVENTFD:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        add_reader(fd, callback, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rig.loop, "add_reader", no_eventfds)
        backend.drop()
        until(rig.loop, lambda: "kick descriptor of ring 0 cannot be waited for" in caplog.text)
    until(rig.loop, lambda: rig.serves(DataPath.OFF))
    os.close(eventfd)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.usefixtures("impatient_stop")
def test_netdev_del_of_hung_back_end(rig: WireRig, backend: FakeBackend) -> None:
    rig.boot()
    rig.wait_up()
    backend.hook = lambda name: b""
    rig.network.delete_netdev("vu0", "test")
    until(rig.loop, lambda: rig.serves(DataPath.DISCARD))
    until(rig.loop, lambda: backend.sock is None)


def test_hung_back_end_does_not_block_loop(
    rig: WireRig, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vhost_user_session, "ANSWER_TIMEOUT_S", 1000.0)
    backend.hook = lambda name: b""
    rig.boot()
    until(rig.loop, lambda: "GET_FEATURES" in backend.messages)
    for _ in range(100):  # where the answer is waited for in a call, this does not end
        run_for(rig.loop, 0.001)
    assert not rig.nic.link_up


def reply(number: int, payload: bytes, flags: int = 5) -> bytes:
    return struct.pack("<III", number, flags, len(payload)) + payload


BASE = struct.Struct("<II")

LIES = {
    "too short": ("GET_FEATURES", reply(vu.GET_FEATURES, bytes(4)), "GET_FEATURES answered with 4 bytes"),
    "too long": ("GET_FEATURES", reply(vu.GET_FEATURES, bytes(16)), "GET_FEATURES answered with 16 bytes"),
    "huge": ("GET_FEATURES", struct.pack("<III", 1, 5, 1 << 31), "payload of 2147483648 bytes"),
    "another request": ("GET_FEATURES", reply(vu.GET_QUEUE_NUM, bytes(8)), "awaited was GET_FEATURES"),
    "no reply": ("GET_FEATURES", reply(vu.GET_FEATURES, bytes(8), 1), "sent by the back-end"),
    "version": ("GET_FEATURES", reply(vu.GET_FEATURES, bytes(8), 6), "not version 1"),
    "unasked": ("SET_OWNER", reply(vu.SET_OWNER, bytes(8)), "an answer to SET_OWNER, awaited was"),
    "flood": ("SET_OWNER", reply(vu.GET_FEATURES, bytes(8)) * 2000, "an answer to GET_FEATURES, awaited was"),
    "text": ("GET_FEATURES", b"HTTP/1.1 200 OK\r\n\r\n", "not version 1"),
    "no queues": ("GET_QUEUE_NUM", reply(vu.GET_QUEUE_NUM, bytes(8)), "more queues than supported: 0"),
    "refused": ("SET_MEM_TABLE", REPLY.pack(vu.SET_MEM_TABLE, 5, 8, 1), "the back-end refused SET_MEM_TABLE"),
    "short ack": ("SET_MEM_TABLE", reply(vu.SET_MEM_TABLE, b""), "SET_MEM_TABLE acknowledged with 0 bytes"),
}


@pytest.mark.parametrize(("name", "answer", "text"), LIES.values(), ids=LIES)
def test_invalid_answer_disconnects(
    rig: WireRig, backend: FakeBackend, name: str, answer: bytes, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend.hook = lambda asked: answer if asked == name else None
    rig.boot()
    until(rig.loop, lambda: text in caplog.text)
    recovers(rig, backend)


@pytest.mark.parametrize(
    "answer",
    [reply(vu.GET_VRING_BASE, BASE.pack(7, 0)), reply(vu.GET_VRING_BASE, BASE.pack(0, 1 << 16)), b"x" * 20],
)
def test_invalid_vring_base_is_refused(rig: WireRig, backend: FakeBackend, answer: bytes) -> None:
    rig.boot()
    rig.wait_up()
    backend.hook = lambda name: answer if name == "GET_VRING_BASE" else None
    rig.network.set_link("nic0", False, "test")
    until(rig.loop, lambda: rig.serves(DataPath.DISCARD))
    rig.network.set_link("nic0", True, "test")
    recovers(rig, backend)


def test_unexpected_descriptors_are_closed(
    rig: WireRig, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    rig.boot()
    rig.wait_up()
    assert backend.sock is not None
    with socket.socket() as passed:
        socket.send_fds(backend.sock, [reply(vu.GET_FEATURES, bytes(8))], [passed.fileno()] * 3)
    until(rig.loop, lambda: "answered with descriptors" in caplog.text)
    recovers(rig, backend)


def test_back_end_with_too_few_queues_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with fresh_loop() as loop, no_fd_leak():
        backend = FakeBackend(loop, str(tmp_path / "backend.sock"))
        rig = WireRig(loop, tmp_path, pairs=4)
        until(loop, lambda: "you are asking more queues than supported: 1" in caplog.text)
        backend.features = FEATURES & ~vu.F_PROTOCOL_FEATURES
        run_for(loop, 0.03)
        assert not rig.nic.link_up
        rig.close()
        backend.close()


def test_guest_with_more_pairs_than_queues_holds_link(tmp_path: Path) -> None:
    """The guest would wait for ever on unserved rings: the link stays down instead, and does not flap."""
    with fresh_loop() as loop, no_fd_leak():
        backend = FakeBackend(loop, str(tmp_path / "backend.sock"))
        backend.pairs = 2
        rig = WireRig(loop, tmp_path, pairs=2)
        rig.wait_up()
        rig.boot((rig.device.host_features & ~CTRL_VQ) | vu.F_PROTOCOL_FEATURES)
        until(loop, lambda: rig.serves(DataPath.TAKEN))
        for queues in (1, 2):
            rig.network.delete_netdev("vu0", "test")
            rig.pairs = queues
            rig.backend = rig.add_netdev()
            if queues == 1:
                until(loop, lambda: rig.why.startswith(TOO_MANY_PAIRS))
                run_for(loop, 0.05)
                assert rig.nic.carrier_up_changes == 1
        rig.wait_up()
        assert rig.serves(DataPath.TAKEN)
        rig.close()
        backend.close()


def test_vm_without_shared_memory_holds_link(
    rig: WireRig, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    rig.wait_up()
    guest = rig.boot()
    rows = [(index << 32, 4096, index << 32, 0) for index in range(1, 10)]
    for row in rows:  # nine pieces that are no neighbours: more than SET_MEM_TABLE takes
        guest.send(vu.ADD_MEM_REG, struct.pack("<QQQQQ", 0, *row), [rig.memory.fd])
    until(rig.loop, lambda: "pieces; a vhost-user back-end takes 8" in caplog.text)
    for row in rows:
        guest.send(vu.REM_MEM_REG, struct.pack("<QQQQQ", 0, *row))
    recovers(rig, backend)


def test_nic_without_rings_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with fresh_loop() as loop, no_fd_leak():
        backend = FakeBackend(loop, str(tmp_path / "backend.sock"))
        rig = WireRig(loop, tmp_path)
        rig.wait_up()
        rig.attachment.close()
        rig.network.delete_nic("nic0")
        rig.network.add_nic("e0", "e1000", Endpoint(), mac=bytes(6), netdev_id="vu0")
        until(loop, lambda: "vhost-user requires frontend driver virtio-net-*" in caplog.text)
        rig.network.close()
        rig.close()
        backend.close()


def test_hold_names_the_cause(rig: WireRig, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhost_user, "UNFIT_PAUSE_S", 60)
    backend.hook = lambda name: reply(vu.GET_QUEUE_NUM, bytes(8)) if name == "GET_QUEUE_NUM" else None
    text = "you are asking more queues than supported: 0; trying again every 60 s"
    until(rig.loop, lambda: rig.why == text)
    assert not rig.nic.link_up

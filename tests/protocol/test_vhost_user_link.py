"""How a client learns of the link: by CONFIG_CHANGE and the status, or by its socket."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.events import as_sent
from tests.fakes.loops import fresh_loop, no_fd_leak, run_for, turn, until
from tests.fakes.vhost_user_rig import SocketRig, closed_by_device

from vnic.attach.attachment import AttachmentState
from vnic.attach.vhost_user import session as vhost_user
from vnic.attach.vhost_user.session import GRACE_S
from vnic.lab.played.vhost_user_client import (
    QEMU_NETDEV_PROTOCOL_FEATURES,
    UML_PROTOCOL_FEATURES,
    Disconnected,
    SocketWire,
    VhostUserClient,
)
from vnic.protocol.vhost_user import messages as vu


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SocketRig]:
    with fresh_loop() as loop, no_fd_leak():
        made = SocketRig(loop, tmp_path / "nic0.sock")
        made.attachment.start()
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def long_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it does not end in the middle of a test that stalls."""
    monkeypatch.setattr(vhost_user, "GRACE_S", 1000.0)


def guest_of_config(rig: SocketRig) -> VhostUserClient:
    client = rig.connect()
    client.start(UML_PROTOCOL_FEATURES)
    assert client.link_up() == rig.nic.link_up
    return client


# --- Clients that read the config space ------------------------------------------------------------------------


def test_config_change_is_sent_before_set_link_returns(rig: SocketRig) -> None:
    client = guest_of_config(rig)
    for up in (False, True, False):
        rig.set_link(up)
        assert client.config_changes() == 1, "no turn of the loop lies between"
        assert client.link_up() == up
        assert str(rig.nic.guest.seen) == ("up" if up else "down")
    change = rig.nic.last_change
    assert change is not None
    assert change.notified_us is not None
    assert change.interrupt_us is not None
    assert change.seen_us is not None


def test_repeated_set_link_sends_no_config_change(rig: SocketRig) -> None:
    client = guest_of_config(rig)
    rig.set_link(True)
    rig.set_link(False)
    rig.set_link(False)
    assert client.config_changes() == 1


def test_unread_flaps_are_one_config_change(rig: SocketRig) -> None:
    client = guest_of_config(rig)
    for number in range(10_001):
        rig.set_link(bool(number % 2))
    assert client.config_changes() == 1
    assert not client.link_up()
    rig.set_link(True)
    assert client.config_changes() == 1
    assert client.link_up()


def test_socket_of_config_client_stays_open(rig: SocketRig) -> None:
    """UML would lose the device for good."""
    client = guest_of_config(rig)
    rig.set_link(False)
    run_for(rig.loop, 1.5 * GRACE_S)
    assert not closed_by_device(client)
    assert not client.link_up()


def test_guest_boots_with_link_down(rig: SocketRig) -> None:
    rig.set_link(False)
    client = guest_of_config(rig)
    run_for(rig.loop, 1.5 * GRACE_S)
    assert client.config_changes() == 0
    rig.set_link(True)
    assert client.config_changes() == 1
    assert client.link_up()


def test_change_before_ring_start_is_sent_at_start(rig: SocketRig) -> None:
    client = rig.connect()
    client.negotiate(UML_PROTOCOL_FEATURES)
    client.set_memory()
    assert client.link_up()
    rig.set_link(False)
    assert client.config_changes() == 0
    client.start_rings()
    assert client.config_changes() == 1
    assert rig.nic.last_change is not None
    assert rig.nic.last_change.interrupt_us is not None


def test_full_channel_does_not_block(rig: SocketRig) -> None:
    """A client that does not read: the notice goes out when there is room."""
    client = rig.connect()
    client.negotiate(UML_PROTOCOL_FEATURES)
    client.set_memory()
    client.start_rings()
    assert rig.attachment.session is not None
    engine = rig.attachment.session.engine
    assert engine.request_fd is not None
    filled = 0
    try:
        while True:
            filled += os.write(engine.request_fd, vu.encode(vu.BACKEND_CONFIG_CHANGE))
    except BlockingIOError:
        pass
    rig.set_link(False)
    rig.serve()
    assert client.config_changes() == filled // 12
    rig.serve()
    assert client.config_changes() == 1
    assert not client.link_up()


def test_closed_channel_is_dropped(rig: SocketRig) -> None:
    client = guest_of_config(rig)
    assert client.requests is not None
    client.requests.close()
    client.requests = None
    rig.set_link(False)
    assert not client.link_up()
    client.open_requests()
    rig.set_link(True)
    assert client.config_changes() == 1


# --- Clients that watch the socket -----------------------------------------------------------------------------


def guest_of_socket(rig: SocketRig) -> VhostUserClient:
    client = rig.connect()
    client.start(QEMU_NETDEV_PROTOCOL_FEATURES)
    assert not closed_by_device(client)
    return client


def test_link_down_closes_socket_and_up_reopens_it(rig: SocketRig) -> None:
    for _ in range(3):
        client = guest_of_socket(rig)
        rig.set_link(False)
        assert closed_by_device(client)
        assert rig.attachment.state is AttachmentState.WITHHELD
        with pytest.raises(OSError, match="No such file"):
            rig.connect()
        rig.set_link(True)
        for ring in rig.driver.rings:
            assert ring.used_idx == 0


def test_shown_by_is_kept_while_socket_is_closed(rig: SocketRig) -> None:
    def shown() -> tuple[object, object]:
        guest = as_sent(rig.nic.guest)
        assert guest["seen"] == "unknown"
        return guest["attached"], guest.get("link-shown-by")

    assert shown() == (False, None)
    client = guest_of_socket(rig)
    assert shown() == (True, "socket")
    rig.set_link(False)
    assert shown() == (False, "socket")
    rig.set_link(True)
    assert shown() == (False, "socket")
    client = rig.connect()
    assert shown() == (True, None), "it may be another one"
    client.close()
    assert shown() == (False, None)
    guest_of_config(rig)
    assert rig.nic.guest.link_shown_by == "device"


def test_client_without_protocol_features_is_shown_link_by_socket(rig: SocketRig) -> None:
    client = rig.connect()
    client.send_u64(vu.SET_FEATURES, rig.device.host_features)
    rig.set_link(False)
    assert closed_by_device(client)


@pytest.mark.usefixtures("long_grace")
def test_qemu_starts_with_link_down(rig: SocketRig) -> None:
    """It starts no VM before its back-end has answered once; so it is answered."""
    rig.set_link(False)
    client = rig.connect()
    client.negotiate(QEMU_NETDEV_PROTOCOL_FEATURES)
    assert client.ask_u64(vu.GET_QUEUE_NUM) == 1
    for ring in rig.driver.rings[:2]:
        client.send_u64(vu.SET_VRING_CALL, ring.index, [ring.call_fd])
    assert not closed_by_device(client)


def test_qemu_is_disconnected_before_guest_runs(rig: SocketRig) -> None:
    rig.set_link(False)
    client = rig.connect()
    with contextlib.suppress(Disconnected):  # where this takes as long as the grace
        client.negotiate(QEMU_NETDEV_PROTOCOL_FEATURES)
    until(rig.loop, lambda: rig.attachment.state is AttachmentState.WITHHELD)
    assert closed_by_device(client)
    rig.set_link(True)
    assert not closed_by_device(rig.connect())


@pytest.mark.usefixtures("long_grace")
def test_driver_start_with_link_down_disconnects_at_once(rig: SocketRig) -> None:
    rig.set_link(False)
    client = rig.connect()
    client.negotiate(QEMU_NETDEV_PROTOCOL_FEATURES)
    client.set_memory()
    client.start_rings(rig.driver.rings[:1])
    assert closed_by_device(client)


def test_link_up_within_grace_keeps_client(rig: SocketRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhost_user, "GRACE_S", 1.0)
    rig.set_link(False)
    client = rig.connect()
    client.negotiate(QEMU_NETDEV_PROTOCOL_FEATURES)
    rig.set_link(True)
    run_for(rig.loop, 1.1)
    assert not closed_by_device(client)


def test_client_after_disconnect_may_use_other_features(rig: SocketRig) -> None:
    guest_of_socket(rig).close()
    rig.set_link(False)
    assert rig.attachment.state is AttachmentState.WAITING
    uml = guest_of_config(rig)
    rig.set_link(True)
    assert uml.config_changes() == 1


def test_path_in_use_is_retried(rig: SocketRig) -> None:
    guest_of_socket(rig)
    rig.set_link(False)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(rig.path)
        other.listen()
        rig.set_link(True)
        run_for(rig.loop, 0.15)
    os.unlink(rig.path)
    until(rig.loop, lambda: os.path.exists(rig.path))
    guest_of_socket(rig)


def test_close_while_withheld(rig: SocketRig) -> None:
    guest_of_socket(rig)
    rig.set_link(False)
    rig.attachment.close()
    rig.set_link(True)
    assert not os.path.exists(rig.path)


def test_connecting_side_reconnects_at_link_up(tmp_path: Path) -> None:
    """attach.server=off: testpmd's virtio-user with server=1, QEMU with -chardev socket,server=on."""
    with fresh_loop() as loop, no_fd_leak(), socket.socket(socket.AF_UNIX) as server:
        path = tmp_path / "vm.sock"
        server.bind(str(path))
        server.listen()
        server.setblocking(False)
        rig = SocketRig(loop, path, server=False)
        rig.attachment.start()
        for _ in range(3):
            accepted, _ = server.accept()
            client = rig.adopt(SocketWire(accepted, loop))
            client.start(QEMU_NETDEV_PROTOCOL_FEATURES)
            rig.set_link(False)
            assert closed_by_device(client)
            run_for(loop, 0.15)
            with pytest.raises(BlockingIOError):
                server.accept()
            rig.set_link(True)
            turn(loop)
        rig.close()


def test_rings_resume_after_link_down(rig: SocketRig) -> None:
    frame = bytes(100)
    for sent in range(3):
        guest_of_socket(rig)
        rig.driver.send(frame)
        rig.serve()
        assert rig.driver.rings[1].used_idx == sent + 1
        rig.set_link(False)
        rig.set_link(True)
    assert rig.sink.frames == [frame] * 3


def test_start_after_close(rig: SocketRig) -> None:
    rig.attachment.start()
    rig.attachment.close()
    rig.attachment.close()
    rig.attachment.start()
    guest_of_config(rig)

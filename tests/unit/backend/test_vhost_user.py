"""Tests of the vhost-user netdev with a correct back-end: link, rings, features, order of events."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
from tests.fakes.loops import fresh_loop, no_fd_leak, run_for, until
from tests.fakes.vhost_user_backend import FEATURES, FakeBackend
from tests.fakes.vhost_user_wire import WireRig

from vnic.backend import netdev_add
from vnic.backend.options import VhostUserOptions
from vnic.backend.vhost_user import BackendState
from vnic.chardev.options import NullOptions, SocketOptions
from vnic.lab.played.vhost_user_client import turn
from vnic.net.announce import AnnounceParameters
from vnic.net.errors import NetError
from vnic.net.records import HoldKind
from vnic.nic.virtio_net import features as f
from vnic.protocol.vhost_user import messages as vu
from vnic.sockets.address import InetAddress, UnixAddress
from vnic.virtio.device_record import DataPath

# --- Connect and disconnect ------------------------------------------------------------------------------------


def test_absent_back_end_does_not_block(rig: WireRig) -> None:
    turn(rig.loop)
    assert rig.backend.state is BackendState.ABSENT
    assert not rig.nic.link_up
    assert "No such file or directory; trying again every 0.01 s" in rig.why
    guest = rig.boot()
    assert not guest.link_up()
    assert rig.serves(DataPath.DISCARD)
    assert not rig.chardevs.find("c0").connected


def test_link_follows_back_end(rig: WireRig, backend: FakeBackend) -> None:
    rig.wait_up()
    assert rig.event_names() == ["NETDEV_VHOST_USER_CONNECTED"]
    assert rig.events[-1] == ("NETDEV_VHOST_USER_CONNECTED", {"netdev-id": "vu0", "chardev-id": "c0"})
    assert rig.chardevs.find("c0").connected
    assert backend.messages == [
        "GET_FEATURES",
        "GET_PROTOCOL_FEATURES",
        "SET_PROTOCOL_FEATURES",
        "GET_QUEUE_NUM",
        "SET_OWNER",
    ]


def test_lost_back_end_reconnects(rig: WireRig, backend: FakeBackend) -> None:
    guest = rig.boot()
    rig.wait_up()
    guest.link_up()
    guest.config_changes()
    for _ in range(3):
        rig.events.clear()
        backend.close()
        rig.wait_down()
        assert guest.config_changes() == 1
        assert not guest.link_up()
        cause = rig.events[0][1]["cause"]  # the hold's text may be that of the next attempt already
        assert isinstance(cause, dict)
        assert cause["text"].startswith("the back-end closed the connection")
        assert [name for name, _ in rig.events if name != "LINK_SEEN"] == [
            "LINK_CHANGED",
            "LINK_CHANGED",
            "NETDEV_VHOST_USER_DISCONNECTED",
        ]
        backend.listen()
        rig.wait_up()
        assert rig.event_names()[-1] == "NETDEV_VHOST_USER_CONNECTED"
        assert guest.config_changes() == 1
        assert guest.link_up()


def test_operator_hold_survives_reconnect(rig: WireRig, backend: FakeBackend) -> None:
    """QEMU forgets it: there the reconnect sets the link up."""
    guest = rig.boot()
    rig.wait_up()
    rig.network.set_link("vu0", False, "test")
    backend.close()
    until(rig.loop, lambda: rig.backend.state is BackendState.ABSENT)
    backend.listen()
    until(rig.loop, lambda: rig.backend.state is BackendState.UP)
    rig.settle()
    assert not rig.nic.link_up
    assert not guest.link_up()
    assert list(rig.nic.holds) == [HoldKind.OPERATOR]
    assert backend.count("SET_VRING_KICK") == 2, "only before the operator's hold"
    rig.network.set_link("vu0", True, "test")
    rig.settle()
    assert guest.link_up()
    assert backend.count("SET_VRING_KICK") == 4


def test_listening_chardev_serves_back_ends_in_turn(tmp_path: Path) -> None:
    with fresh_loop() as loop, no_fd_leak():
        rig = WireRig(loop, tmp_path, server=True, reconnect_ms=0)
        assert "listening on unix:" in rig.why
        backend = FakeBackend(loop, rig.backend_path, server=False)
        for _ in range(3):
            backend.connect()
            rig.wait_up()
            backend.drop()
            rig.wait_down()
        assert rig.event_names() == ["NETDEV_VHOST_USER_CONNECTED", "NETDEV_VHOST_USER_DISCONNECTED"] * 3
        rig.close()


def test_client_without_reconnect_connects_once(tmp_path: Path) -> None:
    with fresh_loop() as loop, no_fd_leak():
        backend = FakeBackend(loop, str(tmp_path / "backend.sock"))
        rig = WireRig(loop, tmp_path, reconnect_ms=0)
        rig.wait_up()
        backend.drop()
        rig.wait_down()
        assert rig.why.endswith("there is no reconnect-ms, so it stays so")
        run_for(loop, 0.05)
        assert backend.connections == 1
        rig.close()
        backend.close()


def test_passed_connection_is_used_once(tmp_path: Path) -> None:
    """QEMU refuses a UNIX socket by `fd=` here, for want of a check of its family."""
    with fresh_loop() as loop, no_fd_leak():
        ours, theirs = socket.socketpair()
        backend = FakeBackend(loop, str(tmp_path / "unused"), server=False)
        backend.adopt(theirs)
        rig = WireRig(loop, tmp_path, passed=ours)
        rig.wait_up()
        assert rig.boot().link_up()
        assert rig.serves(DataPath.TAKEN)
        backend.drop()
        rig.wait_down()
        assert rig.why.endswith("a socket that was passed does not come back")
        rig.close()
        rig.chardevs.close()


def test_netdev_del_closes_passed_connection(tmp_path: Path) -> None:
    with fresh_loop() as loop, no_fd_leak():
        ours, theirs = socket.socketpair()
        backend = FakeBackend(loop, str(tmp_path / "unused"), server=False)
        backend.adopt(theirs)
        rig = WireRig(loop, tmp_path, passed=ours)
        rig.wait_up()
        rig.network.close_netdevs()
        until(loop, lambda: backend.sock is None)
        rig.close()
        rig.chardevs.close()


def test_passed_listener_serves_back_ends_in_turn(tmp_path: Path) -> None:
    with fresh_loop() as loop, no_fd_leak():
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "backend.sock"))
        rig = WireRig(loop, tmp_path, server=True, passed=listening)
        assert "listening on unix:" in rig.why
        backend = FakeBackend(loop, rig.backend_path, server=False)
        for _ in range(2):
            backend.connect()
            rig.wait_up()
            backend.drop()
            rig.wait_down()
        rig.close()
        rig.chardevs.close()


# --- Rings -----------------------------------------------------------------------------------------------------


def test_rings_memory_and_eventfds_are_handed_over(rig: WireRig, backend: FakeBackend) -> None:
    rig.wait_up()
    backend.messages.clear()
    rig.boot()
    assert rig.serves(DataPath.TAKEN)
    ring = [f"SET_VRING_{part}" for part in ("NUM", "BASE", "ADDR", "CALL", "ENABLE", "KICK")]
    assert backend.messages == ["SET_FEATURES", "SET_MEM_TABLE", *ring, "SET_STATUS", *ring]
    memory = rig.memory
    table = struct.pack("<IIQQQQ", 1, 0, memory.guest_addr, memory.size, memory.guest_addr, 0)
    assert backend.last("SET_MEM_TABLE") == table
    tx = rig.driver.rings[1]
    assert backend.last("SET_VRING_ADDR") == struct.pack("<IIQQQQ", 1, 0, tx.desc, tx.used, tx.avail, 0)
    assert [fds for name, _, fds in backend.payloads if name in ("SET_VRING_KICK", "SET_VRING_CALL")] == [
        1
    ] * 4
    features = int.from_bytes(backend.last("SET_FEATURES"), "little")
    assert features == (rig.device.driver_features & f.OF_THE_RINGS) | vu.F_PROTOCOL_FEATURES


def test_link_down_stops_rings_and_up_restarts_them(rig: WireRig, backend: FakeBackend) -> None:
    guest = rig.boot()
    rig.wait_up()
    backend.messages.clear()
    rig.network.set_link("nic0", False, "test")
    rig.settle()
    assert backend.messages == ["GET_VRING_BASE", "GET_VRING_BASE", "SET_STATUS"]
    assert rig.serves(DataPath.DISCARD)
    assert not guest.link_up()
    rig.driver.send(b"x" * 60)
    rig.settle()
    assert rig.driver.rings[1].used_idx == 1, "sent while the link is down, it is completed unsent"
    rig.network.set_link("nic0", True, "test")
    rig.settle()
    assert rig.serves(DataPath.TAKEN)
    assert backend.last("SET_VRING_BASE") == struct.pack("<II", 1, 1)
    assert backend.sock is not None, "a link change is no reason to part"


def test_kicks_of_handed_over_rings_are_not_read(rig: WireRig, backend: FakeBackend) -> None:
    rig.boot()
    rig.wait_up()
    rig.driver.send(b"x" * 60)
    rig.settle()
    assert rig.driver.rings[1].kicks() == 1
    assert rig.driver.rings[1].used_idx == 0


def test_leaving_guest_gets_its_rings_back(rig: WireRig, backend: FakeBackend) -> None:
    guest = rig.boot()
    rig.wait_up()
    for ring in rig.driver.rings[:2]:
        assert guest.stop_ring(ring) == 0
    assert backend.count("GET_VRING_BASE") == 2
    assert not rig.serves(DataPath.TAKEN)
    rig.shut_down()
    rig.boot()
    assert rig.serves(DataPath.TAKEN)


def test_killed_guest_with_rings_handed_over(rig: WireRig, backend: FakeBackend) -> None:
    for _ in range(5):
        rig.boot()
        rig.wait_up()
        assert rig.serves(DataPath.TAKEN)
        rig.shut_down()
        until(rig.loop, lambda: not rig.device.attached)


def test_replaced_call_is_forwarded(rig: WireRig, backend: FakeBackend) -> None:
    guest = rig.boot()
    rig.wait_up()
    backend.messages.clear()
    guest.send_u64(vu.SET_VRING_CALL, 1, [rig.driver.rings[0].call_fd])
    rig.settle()
    assert backend.messages == ["SET_VRING_CALL"]
    guest.send_u64(vu.SET_VRING_CALL, 1 | vu.VRING_NOFD)
    rig.settle()
    assert backend.last("SET_VRING_CALL") == (1 | vu.VRING_NOFD).to_bytes(8, "little")


def test_grown_memory_is_forwarded(rig: WireRig, backend: FakeBackend) -> None:
    guest = rig.boot()
    rig.wait_up()
    backend.messages.clear()
    guest.send(vu.ADD_MEM_REG, struct.pack("<QQQQQ", 0, 0, 4096, 0x1000, 0), [rig.memory.fd])
    rig.settle()
    assert backend.messages == ["SET_MEM_TABLE"]
    assert backend.last("SET_MEM_TABLE")[:4] == struct.pack("<I", 2)


def test_disabled_ring_is_forwarded(rig: WireRig, backend: FakeBackend) -> None:
    guest = rig.boot()
    rig.wait_up()
    backend.messages.clear()
    guest.enable(rig.driver.rings[1], False)
    rig.settle()
    assert struct.pack("<II", 1, 0) in [p for name, p, _ in backend.payloads if name == "SET_VRING_ENABLE"]


def test_two_pairs(tmp_path: Path) -> None:
    with fresh_loop() as loop, no_fd_leak():
        backend = FakeBackend(loop, str(tmp_path / "backend.sock"))
        backend.pairs = 2
        rig = WireRig(loop, tmp_path, pairs=2)
        rig.wait_up()
        # A front-end like QEMU keeps the control queue to itself.
        rig.boot((rig.device.host_features & ~f.CTRL_VQ) | vu.F_PROTOCOL_FEATURES)
        rig.settle()
        assert backend.count("SET_VRING_KICK") == 4
        rig.close()
        backend.close()


def test_unrequested_pairs_are_started_and_not_enabled(tmp_path: Path) -> None:
    """A driver that never sends VQ_PAIRS_SET, with the control queue here: a back-end may wait for all its rings."""
    with fresh_loop() as loop, no_fd_leak():
        backend = FakeBackend(loop, str(tmp_path / "backend.sock"))
        backend.pairs = 2
        rig = WireRig(loop, tmp_path, pairs=2)
        rig.wait_up()
        rig.boot(rig.device.host_features | vu.F_PROTOCOL_FEATURES)
        rig.settle()
        assert backend.count("SET_VRING_KICK") == 4
        enabled = [
            struct.unpack("<II", payload)
            for name, payload, _ in backend.payloads
            if name == "SET_VRING_ENABLE"
        ]
        assert enabled == [(0, 1), (1, 1)]
        rig.close()
        backend.close()


# --- Features, MTU, RARP -----------------------------------------------------------------------------------------


def test_guest_is_offered_common_features(rig: WireRig, backend: FakeBackend) -> None:
    backend.features = FEATURES & ~f.MRG_RXBUF
    rig.wait_up()
    guest = rig.boot()
    assert not guest.features & f.MRG_RXBUF
    assert guest.features & f.CSUM
    assert guest.features & f.CTRL_VQ, "the control queue is the NIC's own"


def test_reconnect_with_fewer_features_is_refused(rig: WireRig, backend: FakeBackend) -> None:
    rig.wait_up()
    rig.boot()
    backend.close()
    rig.wait_down()
    backend.features = FEATURES & ~(f.CSUM | f.MRG_RXBUF)
    backend.listen()
    until(rig.loop, lambda: "vhost lacks feature mask 0x8001 for backend: CSUM, MRG_RXBUF" in rig.why)
    assert not rig.nic.link_up
    backend.features = FEATURES
    rig.wait_up()
    assert rig.serves(DataPath.TAKEN)


def test_guest_that_negotiated_before_the_back_end_connected(rig: WireRig, backend: FakeBackend) -> None:
    backend.close()
    rig.boot()
    backend.features = FEATURES & ~f.MRG_RXBUF
    backend.listen()
    until(rig.loop, lambda: "vhost lacks feature mask 0x8000 for backend: MRG_RXBUF" in rig.why)
    # Long before the back-end is tried again the driver is loaded anew; it must not choose the same once more.
    rig.shut_down()
    guest = rig.boot()
    assert not guest.features & f.MRG_RXBUF
    rig.wait_up()
    assert rig.serves(DataPath.TAKEN)


@pytest.mark.parametrize("refuses", [False, True])
def test_guest_mtu_is_forwarded(tmp_path: Path, refuses: bool) -> None:
    with fresh_loop() as loop, no_fd_leak():
        backend = FakeBackend(loop, str(tmp_path / "backend.sock"))
        backend.features |= f.MTU
        if refuses:
            nack = struct.pack("<IIIQ", vu.NET_SET_MTU, 5, 8, 1)
            backend.hook = lambda name: nack if name == "NET_SET_MTU" else None
        rig = WireRig(loop, tmp_path, mtu=9000)
        rig.wait_up()
        rig.boot()
        until(loop, lambda: backend.count("NET_SET_MTU"))
        assert backend.last("NET_SET_MTU") == (9000).to_bytes(8, "little")
        if refuses:
            until(loop, lambda: "9000Bytes MTU not supported by the backend" in rig.why)
        rig.close()
        backend.close()


def test_announce_self_makes_back_end_send_rarp(rig: WireRig, backend: FakeBackend) -> None:
    rig.wait_up()
    rig.boot(rig.device.host_features & ~f.GUEST_ANNOUNCE | vu.F_PROTOCOL_FEATURES)
    rig.network.announce_self(AnnounceParameters(rounds=1))
    rig.settle()
    assert backend.last("SEND_RARP") == rig.nic.mac + b"\0\0"


def test_guest_that_announces_itself_gets_no_rarp(rig: WireRig, backend: FakeBackend) -> None:
    rig.wait_up()
    rig.boot()
    rig.network.announce_self(AnnounceParameters(rounds=1))
    rig.settle()
    assert backend.count("SEND_RARP") == 0


def test_without_protocol_features(rig: WireRig, backend: FakeBackend) -> None:
    backend.features = FEATURES & ~vu.F_PROTOCOL_FEATURES
    rig.wait_up()
    rig.boot()
    assert rig.serves(DataPath.TAKEN)
    assert backend.count("GET_PROTOCOL_FEATURES") == 0
    assert backend.count("SET_VRING_ENABLE") == 0
    rig.network.set_link("nic0", False, "test")
    rig.settle()
    assert rig.serves(DataPath.DISCARD)


# --- netdev_add, netdev_del ------------------------------------------------------------------------------------


def test_netdev_del_stops_rings_before_disconnecting(rig: WireRig, backend: FakeBackend) -> None:
    guest = rig.boot()
    rig.wait_up()
    rig.network.delete_netdev("vu0", "test")
    assert not guest.link_up()
    until(rig.loop, lambda: backend.sock is None)
    assert backend.count("GET_VRING_BASE") == 2
    assert rig.chardevs.find("c0").user == ""
    rig.backend = rig.add_netdev()
    rig.wait_up()
    assert guest.link_up()
    assert rig.serves(DataPath.TAKEN)


def test_netdev_del_deletes_chardev_unless_a_nic_waits_for_it(rig: WireRig) -> None:
    rig.network.delete_netdev("vu0", "test")
    assert rig.chardevs.find("c0").user == "", "the NIC's netdev may come back on it"
    rig.add_netdev()
    rig.network.delete_nic("nic0")
    rig.network.delete_netdev("vu0", "test")
    with pytest.raises(NetError, match='chardev "c0" not found'):
        rig.chardevs.find("c0")


def test_info_network_text(rig: WireRig) -> None:
    assert rig.backend.info_text(0) == "vhost-user0 to c0"


@pytest.mark.parametrize(
    ("chardev", "queues", "text"),
    [
        ("nope", 1, 'chardev "nope" not found'),
        ("null", 1, 'chardev "null" is not reconnectable'),
        ("tcp", 1, 'chardev "tcp" does not support FD passing'),
        ("c0", 1, "chardev 'c0' is already in use"),
        ("c0", 0, r"vhost-user number of queues must be in range \[1, 1024\]"),
        ("c0", 1025, r"vhost-user number of queues must be in range \[1, 1024\]"),
        ("busy", 1, "this vnic listens there already"),
    ],
)
def test_bad_options_are_refused(rig: WireRig, chardev: str, queues: int, text: str) -> None:
    rig.chardevs.add(NullOptions(id="null"))
    rig.chardevs.add(SocketOptions(id="tcp", addr=InetAddress(host="localhost", port="1")))
    rig.chardevs.add(SocketOptions(id="busy", addr=UnixAddress(path=rig.guest_path), server=True))
    with pytest.raises(NetError, match=text):
        netdev_add(rig.context, VhostUserOptions(id="vu1", chardev=chardev, queues=queues))
    if chardev not in ("c0", "nope"):
        assert rig.chardevs.find(chardev).user == ""
    assert rig.network.find_netdev("vu1") is None

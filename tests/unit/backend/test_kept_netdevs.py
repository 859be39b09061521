"""Netdevs whose process is killed: the peer sees nothing of it, and the link, its holds and its times are as before."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.kept_netdev import KeptLab
from tests.fakes.ports import free_ports

from vnic.backend.framing import LENGTH
from vnic.backend.options import (
    CableOptions,
    DgramOptions,
    EchoOptions,
    HubPortOptions,
    SocketOptions,
    StreamOptions,
    TunnelOptions,
)
from vnic.backend.stream import StreamState
from vnic.backend.transport import TransportRecord
from vnic.net.fault_info import DampenedSettings, SlowUpSettings
from vnic.net.flaps import Pattern
from vnic.net.records import HoldKind
from vnic.sockets.address import InetAddress, UnixAddress

pytestmark = pytest.mark.in_a_child


@pytest.fixture
def lab() -> Iterator[KeptLab]:
    with KeptLab() as lab:
        yield lab


def framed(*frames: bytes) -> bytes:
    return b"".join(LENGTH.pack(len(frame)) + frame for frame in frames)


def read_frame(sock: socket.socket) -> bytes:
    (size,) = LENGTH.unpack(exactly(sock, 4))
    return exactly(sock, size)


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, "the connection was closed"
        data += piece
    return data


def connected(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(30)
    peer.connect(str(path))
    return peer


def assert_works(lab: KeptLab, peer: socket.socket) -> None:
    """Frames pass both ways, over the same connection."""
    guest = lab.guest()
    before = len(guest.frames)
    peer.sendall(framed(b"to the guest"))
    lab.until(lambda: len(guest.frames) > before)
    assert guest.frames[before:] == [b"to the guest"]
    lab.client("nic0").send(0, b"from the guest")
    lab.turn()
    assert read_frame(peer) == b"from the guest"


def unix_server(path: Path) -> StreamOptions:
    return StreamOptions(id="net0", server=True, addr=UnixAddress(path=str(path)))


def test_stream_server_keeps_its_peer(lab: KeptLab, tmp_path: Path) -> None:
    lab.add(unix_server(tmp_path / "s"))
    lab.nic("nic0", "net0")
    with connected(tmp_path / "s") as peer:
        lab.until(lambda: not lab.client("net0").holds)
        ups = lab.client("net0").carrier_up_changes
        assert_works(lab, peer)
        for half in (b"\0", framed(b"half a frame")[:7]):
            peer.sendall(half)
            lab.turn()
            lab.kill()
            assert lab.anew == []
            peer.sendall(framed(b"half a frame")[len(half) :] if len(half) > 1 else framed(b"x" * 9)[1:])
            lab.until(lambda: lab.guest().frames)
            assert lab.guest().frames in ([b"half a frame"], [b"x" * 9])
            assert_works(lab, peer)
        client = lab.client("net0")
        assert not client.holds
        assert client.carrier_up_changes == ups
        assert "NETDEV_STREAM_CONNECTED" not in lab.process.events
        assert "LINK_CHANGED" not in lab.process.events
        assert client.endpoint.info_text(0) == f"unix:{tmp_path / 's'}"
    lab.until(lambda: lab.client("net0").holds)  # the next peer finds the same path
    with connected(tmp_path / "s") as peer:
        lab.until(lambda: not lab.client("net0").holds)


def test_a_hold_that_was_to_be_released_is_released(lab: KeptLab, tmp_path: Path) -> None:
    """The process was killed when the connection was kept, and before the guest heard of it."""
    lab.add(unix_server(tmp_path / "s"))
    lab.nic("nic0", "net0")
    links = lab.network.links
    links.release = lambda *_: None  # type: ignore[method-assign]
    with connected(tmp_path / "s") as peer:
        lab.until(lambda: lab.netdev("net0").state is StreamState.CONNECTED)
        assert lab.client("net0").holds
        lab.kill()
        lab.until(lambda: not lab.client("net0").holds)
        assert_works(lab, peer)


def test_stream_that_listens_keeps_its_path_and_its_backlog(lab: KeptLab, tmp_path: Path) -> None:
    lab.add(unix_server(tmp_path / "s"))
    inode = os.stat(tmp_path / "s").st_ino
    lab.kill()
    assert lab.anew == []
    assert os.stat(tmp_path / "s").st_ino == inode
    assert lab.client("net0").holds[HoldKind.DISCONNECTED].text.startswith("listening on")
    lab.nic("nic0", "net0")
    with connected(tmp_path / "s") as peer:
        lab.kill()  # it waits in the backlog
        lab.until(lambda: not lab.client("net0").holds)
        assert_works(lab, peer)


def test_stream_client_keeps_its_connection_and_its_time(lab: KeptLab) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = InetAddress(host="127.0.0.1", port=str(listening.getsockname()[1]))
        lab.add(StreamOptions(id="net0", addr=address, reconnect_ms=3_600_000))
        lab.nic("nic0", "net0")
        lab.until(lambda: not lab.client("net0").holds)
        peer, _ = listening.accept()
        with peer:
            lab.kill()
            assert_works(lab, peer)
    lab.until(lambda: lab.client("net0").holds)
    time.sleep(0.05)
    left_us = lab.netdev("net0").save().wait_us
    lab.kill()
    again_us = lab.netdev("net0").save().wait_us
    assert left_us - 5_000_000 < again_us < left_us


def test_tcp_stream_keeps_its_peer_and_its_port(lab: KeptLab) -> None:
    lab.add(StreamOptions(id="net0", server=True, addr=InetAddress(host="127.0.0.1", port="0")))
    lab.nic("nic0", "net0")
    lab.until(lambda: lab.netdev("net0").handles.listening)
    name = lab.netdev("net0").handles.listening.socket.getsockname()
    with socket.create_connection(name, timeout=30) as peer:
        lab.until(lambda: not lab.client("net0").holds)
        lab.kill()
        assert_works(lab, peer)
        lab.kill()
        assert_works(lab, peer)
    assert lab.netdev("net0").handles.listening.socket.getsockname() == name


def test_socket_netdev_keeps_its_peer(lab: KeptLab) -> None:
    lab.add(SocketOptions(id="net0", listen="127.0.0.1:0"))
    lab.nic("nic0", "net0")
    name = lab.netdev("net0").handles.listening.socket.getsockname()
    with socket.create_connection(name, timeout=30) as peer:
        lab.until(lambda: not lab.client("net0").holds)
        info = lab.netdev("net0").info_text(0)
        lab.kill()
        assert lab.netdev("net0").info_text(0) == info
        assert_works(lab, peer)


def test_dgram_keeps_its_sockets(lab: KeptLab, tmp_path: Path) -> None:
    here, there = (UnixAddress(path=str(tmp_path / name)) for name in ("here", "there"))
    lab.add(DgramOptions(id="net0", local=here, remote=there))
    lab.nic("nic0", "net0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.settimeout(30)
        peer.bind(str(tmp_path / "there"))
        peer.sendto(b"before", str(tmp_path / "here"))
        lab.kill()
        assert lab.anew == []
        peer.sendto(b"after", str(tmp_path / "here"))
        lab.until(lambda: len(lab.guest().frames) == 2)
        assert lab.guest().frames == [b"before", b"after"]
        lab.client("nic0").send(0, b"frame")
        assert peer.recv(100) == b"frame"
    lab.network.delete_netdev("net0", "test")
    assert not (tmp_path / "here").exists()


def test_echo_answers_what_was_asked_before(lab: KeptLab) -> None:
    lab.add(EchoOptions(id="net0"))
    guest = lab.nic("nic0", "net0")
    request = b"\xff" * 6 + b"\2" * 6 + bytes.fromhex("0806 0001 0800 06 04 0001") + b"\2" * 6 + bytes(10)
    whole = request + socket.inet_aton(EchoOptions(id="e").ip)
    lab.process.keep.commit()
    for count in (1, 3, 40):  # more than are kept without a commit
        guest = lab.guest()
        guest.frames.clear()
        for _ in range(count):
            lab.client("nic0").send(0, whole)
        assert guest.frames == []
        lab.kill()
        lab.until(lambda count=count: len(lab.guest().frames) >= count)  # type: ignore[misc]
        lab.turn()
        assert len(lab.guest().frames) == count
    lab.kill()
    lab.turn()
    assert lab.guest().frames == []


def test_tunnel_keeps_its_sockets_and_its_numbers_go_on(lab: KeptLab) -> None:
    one, two = free_ports(socket.SOCK_DGRAM, 2)
    common: dict[str, Any] = {"vni": 7, "key": "secret", "interval": 1000, "follow": "operator"}
    lab.add(TunnelOptions(id="net0", local=f"127.0.0.1:{one}", remote=f"127.0.0.1:{two}", **common))
    lab.add(TunnelOptions(id="net1", local=f"127.0.0.1:{two}", remote=f"127.0.0.1:{one}", **common))
    for end in range(2):
        lab.nic(f"nic{end}", f"net{end}")
    lab.until(lambda: lab.client("nic0").link_up and lab.client("nic1").link_up)
    for _ in range(3):
        lab.kill()
        assert lab.anew == []
        assert lab.netdev("net0").tunnel_info().ccm.remote.heard == "yes"
        until = time.monotonic() + 0.1
        lab.until(lambda end=until: time.monotonic() > end)  # type: ignore[misc]
        assert not lab.client("net0").holds
        assert not lab.client("net1").holds
        lab.client("nic0").send(0, bytes(60))
        lab.until(lambda: lab.guest("nic1").frames)
        assert "LINK_CHANGED" not in lab.process.events
    counters = lab.netdev("net1").tunnel_info().counters
    assert (counters.replayed, counters.bad_key, counters.old_sequence) == (0, 0, 0)


def test_cable_and_hub_are_joined_again(lab: KeptLab) -> None:
    lab.add(CableOptions(id="net0", cable="c"))
    lab.add(CableOptions(id="net1", cable="c", follow="operator"))
    lab.nic("nic0", "net0")
    lab.nic("nic1", "net1")
    for port in range(2):
        lab.add(HubPortOptions(id=f"port{port}", hubid=0))
        lab.nic(f"nic{port + 2}", f"port{port}")
    lab.network.set_link("nic0", False, "test")
    holds = [str(hold) for hold in lab.client("net1").holds.values()]
    assert holds
    lab.turn()
    lab.kill()
    assert lab.network.find_nic("nic0")
    lab.network.set_link("nic0", True, "test")
    lab.client("nic2").send(0, b"through the hub")
    lab.client("nic1").send(0, b"through the cable")
    lab.turn()
    assert lab.guest("nic3").frames == [b"through the hub"]


def test_flap_under_way_goes_on_with_the_rest_of_its_time(lab: KeptLab) -> None:
    lab.add(EchoOptions(id="net0"))
    lab.nic("nic0", "net0")
    pattern = Pattern(down_ms=400, up_ms=1, count=1, jitter=0, seed=0)
    began = time.monotonic()
    lab.network.flaps.start("net0", pattern, "test")
    lab.turn()
    time.sleep(0.2)
    lab.kill()
    assert [each.id for each in lab.network.flaps.query()] == ["flap-1"]
    assert HoldKind.OPERATOR in lab.client("net0").holds
    lab.until(lambda: not lab.client("net0").holds)
    assert 0.39 < time.monotonic() - began < 0.39 + 5
    lab.turn()
    lab.kill()
    assert list(lab.network.flaps.query()) == []
    assert lab.network.flaps.start("net0", pattern, "test") == "flap-2"


def test_faults_go_on(lab: KeptLab) -> None:
    lab.add(EchoOptions(id="net0"))
    lab.network.faults.start("net0", SlowUpSettings(60_000), "test")
    lab.network.faults.start("net0", DampenedSettings(half_life_ms=60_000), "test")
    for up in (False, True):
        lab.network.set_link("net0", up, "test")
    lab.turn()
    before = {each.shape: each for each in lab.network.faults.query()}
    time.sleep(0.05)
    lab.kill()
    after = {each.shape: each for each in lab.network.faults.query()}
    assert before.keys() == after.keys()
    for shape, each in after.items():
        assert each.holds is before[shape].holds
        assert (each.downs, each.by) == (before[shape].downs, before[shape].by)
        if each.left_ms is not None:
            assert before[shape].left_ms - 5000 < each.left_ms < before[shape].left_ms  # type: ignore[operator]
    assert HoldKind.SLOW_UP in lab.client("net0").holds


def test_counters_and_holds_are_as_before(lab: KeptLab, tmp_path: Path) -> None:
    lab.add(unix_server(tmp_path / "s"))
    lab.network.set_link("net0", False, "someone")
    lab.turn()
    before = lab.client("net0").save()
    lab.kill()
    after = lab.client("net0").save()
    assert [(hold.kind, hold.by, hold.text, hold.since) for hold in after.holds] == [
        (hold.kind, hold.by, hold.text, hold.since) for hold in before.holds
    ]
    assert (after.carrier_down_changes, after.carrier_up_changes) == (
        before.carrier_down_changes,
        before.carrier_up_changes,
    )


@pytest.mark.parametrize("wrong", ["state", "descriptor", "memory"])
def test_a_refused_record_has_the_netdev_start_anew(
    lab: KeptLab, tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    """With one line in the log, and nothing of the old one left."""
    lab.add(unix_server(tmp_path / "s"))
    lab.nic("nic0", "net0")
    backend = lab.netdev("net0")
    with connected(tmp_path / "s") as peer:
        lab.until(lambda: not lab.client("net0").holds)
        record, fds = backend.save_kept()
        stream = fds.connected
        withheld = msgspec.structs.replace(
            record, state=StreamState.WITHHELD, transport=TransportRecord(connection=None, port=None)
        )
        kept: Any = {
            "state": (withheld, fds),
            "descriptor": (record, fds._replace(connected=stream._replace(sock=stream.memory))),
            "memory": (record, fds._replace(connected=stream._replace(memory=None))),
        }[wrong]
        backend.save_kept = lambda: kept
        backend.kept.handles_changed()
        lab.turn()
        with caplog.at_level(logging.WARNING):
            lab.kill()
        assert lab.anew == ["net0"]
        lines = [each.getMessage() for each in caplog.records if "net0" in each.getMessage()]
        assert len(lines) == 1
        assert "starts anew" in lines[0]
        assert HoldKind.DISCONNECTED in lab.client("net0").holds
    with connected(tmp_path / "s") as peer:
        lab.until(lambda: not lab.client("net0").holds)
        assert_works(lab, peer)

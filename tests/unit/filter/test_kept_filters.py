"""Filters whose process is killed: files, chardevs and frames under way are as before."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.kept_netdev import KeptLab

from vnic.backend.framing import LENGTH
from vnic.backend.options import EchoOptions
from vnic.chardev.options import SocketOptions
from vnic.filter.options import (
    BufferOptions,
    DumpOptions,
    MirrorOptions,
    NetemOptions,
    RedirectorOptions,
    ReplayOptions,
)
from vnic.net.filter_set import find_filter
from vnic.net.filters import Direction
from vnic.sockets.address import UnixAddress

pytestmark = pytest.mark.in_a_child


@pytest.fixture
def lab() -> Iterator[KeptLab]:
    with KeptLab() as lab:
        lab.add(EchoOptions(id="net0"))
        lab.nic("nic0", "net0")
        yield lab


def send(lab: KeptLab, *frames: bytes) -> None:
    """To the guest."""
    for frame in frames:
        lab.client("net0").send(0, frame)


def connected(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(30)
    peer.connect(str(path))
    return peer


def read_frame(sock: socket.socket) -> bytes:
    (size,) = LENGTH.unpack(sock.recv(4, socket.MSG_WAITALL))
    return sock.recv(size, socket.MSG_WAITALL)


def test_dump_goes_on_in_its_file(lab: KeptLab, tmp_path: Path) -> None:
    path = tmp_path / "dump.pcap"
    lab.add_object(DumpOptions(id="f0", netdev="net0", file=str(path)))
    send(lab, bytes(60))
    lab.kill()
    assert lab.anew == []
    send(lab, bytes(61))
    lab.kill()
    send(lab, bytes(62))
    data, at, sizes = path.read_bytes(), 24, []
    while at < len(data):
        _, _, kept, size = struct.unpack_from("<IIII", data, at)
        sizes.append(size)
        at += 16 + kept
    assert sizes == [60, 61, 62]


def test_mirror_keeps_its_peer_and_its_path(lab: KeptLab, tmp_path: Path) -> None:
    lab.chardev(SocketOptions(id="c0", addr=UnixAddress(path=str(tmp_path / "c")), server=True))
    lab.add_object(MirrorOptions(id="f0", netdev="net0", outdev="c0"))
    with connected(tmp_path / "c") as peer:
        lab.until(lambda: lab.process.chardevs.find("c0").connected)
        for number in range(3):
            frame = bytes([number]) * 60
            send(lab, frame)
            assert read_frame(peer) == frame
            lab.kill()
            assert lab.anew == []
            assert lab.process.chardevs.find("c0").connected
            assert lab.process.chardevs.find("c0").user == "filter f0"
    lab.until(lambda: not lab.process.chardevs.find("c0").connected)
    with connected(tmp_path / "c"):
        lab.until(lambda: lab.process.chardevs.find("c0").connected)


def test_redirector_goes_on_in_the_middle_of_a_frame(lab: KeptLab, tmp_path: Path) -> None:
    lab.chardev(SocketOptions(id="c0", addr=UnixAddress(path=str(tmp_path / "c")), server=True))
    lab.add_object(RedirectorOptions(id="f0", netdev="net0", queue=Direction.TX, indev="c0"))
    whole = LENGTH.pack(60) + bytes(range(60))
    with connected(tmp_path / "c") as peer:
        lab.until(lambda: lab.process.chardevs.find("c0").connected)
        for cut in (1, 4, 30):
            peer.sendall(whole[:cut])
            lab.turn()
            lab.kill()
            peer.sendall(whole[cut:])
            lab.until(lambda: lab.guest().frames)
            assert lab.guest().frames == [bytes(range(60))]


def test_chardev_without_a_user_keeps_its_path_and_its_backlog(lab: KeptLab, tmp_path: Path) -> None:
    lab.chardev(SocketOptions(id="c0", addr=UnixAddress(path=str(tmp_path / "c")), server=True))
    inode = os.stat(tmp_path / "c").st_ino
    with connected(tmp_path / "c") as peer:
        lab.kill()
        assert os.stat(tmp_path / "c").st_ino == inode
        lab.add_object(MirrorOptions(id="f0", netdev="net0", outdev="c0"))
        lab.until(lambda: lab.process.chardevs.find("c0").connected)
        send(lab, b"frame" * 12)
        assert read_frame(peer) == b"frame" * 12
    lab.network.find_netdev("net0").filters[0].remove()  # type: ignore[union-attr]
    lab.process.chardevs.remove("c0")
    assert not (tmp_path / "c").exists()


def test_buffer_releases_what_it_held(lab: KeptLab) -> None:
    lab.add_object(BufferOptions(id="f0", netdev="net0", interval=200_000))
    frames = [bytes([number]) * 60 for number in range(5)]
    send(lab, *frames)
    lab.turn(1)
    lab.kill()
    assert lab.guest().frames == []
    lab.until(lambda: lab.guest().frames)
    lab.turn()
    assert lab.guest().frames == frames


def test_buffer_that_holds_much_is_kept_without_it(lab: KeptLab) -> None:
    """Its frames would be saved in every turn of the loop."""
    lab.add_object(BufferOptions(id="f0", netdev="net0", interval=100_000))
    send(lab, *[bytes(9000)] * 10)
    lab.kill()
    assert lab.anew == []
    send(lab, b"later" * 12)
    lab.until(lambda: lab.guest().frames)
    assert lab.guest().frames == [b"later" * 12]


def test_netem_goes_on_with_its_stream_and_its_delay(lab: KeptLab) -> None:
    lab.add_object(
        NetemOptions(id="f0", netdev="net0", queue=Direction.TX, delay="100ms", loss="50%", seed=7)
    )
    frames = [bytes([number]) * 60 for number in range(40)]
    with KeptLab() as other:  # that is not killed
        other.add(EchoOptions(id="net0"))
        other.nic("nic0", "net0")
        other.add_object(
            NetemOptions(id="f0", netdev="net0", queue=Direction.TX, delay="100ms", loss="50%", seed=7)
        )
        send(other, *frames)
        send(lab, *frames[:20])
        lab.kill()
        assert lab.anew == []
        assert lab.guest().frames == []
        send(lab, *frames[20:])
        expected = find_filter(other.network, "f0")
        assert expected is not None
        other.until(lambda: not any(line.waiting for line in expected.lines.values()))  # type: ignore[attr-defined]
        there = find_filter(lab.network, "f0")
        assert there is not None
        lab.until(lambda: not any(line.waiting for line in there.lines.values()))  # type: ignore[attr-defined]
        assert lab.guest().frames == other.guest().frames
        assert len(lab.guest().frames) > 5


def test_a_filter_that_was_switched_off_stays_off(lab: KeptLab) -> None:
    lab.add_object(ReplayOptions(id="f0", netdev="net0"))
    found = find_filter(lab.network, "f0")
    assert found is not None
    found.set_status("off")
    lab.kill()
    again = find_filter(lab.network, "f0")
    assert again is not None
    assert not again.on


def test_a_refused_record_has_the_filter_start_anew(
    lab: KeptLab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "dump.pcap"
    lab.add_object(DumpOptions(id="f0", netdev="net0", file=str(path)))
    found = find_filter(lab.network, "f0")
    assert found is not None
    record, fds = found.save_kept()
    found.save_kept = lambda: (record, fds._replace(file=None))  # type: ignore[method-assign]
    found.kept.handles_changed()
    lab.kill()
    assert lab.anew == ["f0"]
    lines = [each.getMessage() for each in caplog.records]
    assert len(lines) == 1
    assert "object/f0" in lines[0]
    assert "dumping" in lines[0]
    send(lab, bytes(60))
    assert path.stat().st_size == 24 + 16 + 60

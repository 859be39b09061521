"""Netdevs whose far end is another program: passt and vhost-user back-ends outlive vnic's process, which finds them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes import passt_program
from tests.fakes.kept_netdev import KeptLab
from tests.fakes.loops import turn
from tests.fakes.ports import free_ports
from tests.fakes.vhost_user_backend import FakeBackend

from vnic.backend.options import PasstOptions, UserOptions, VhostUserOptions
from vnic.backend.vhost_user import BackendState
from vnic.chardev.options import SocketOptions
from vnic.net.records import HoldKind
from vnic.sockets.address import UnixAddress

pytestmark = pytest.mark.in_a_child


@pytest.fixture
def lab() -> Iterator[KeptLab]:
    with KeptLab() as lab:
        yield lab


def assert_echoes(lab: KeptLab, frame: bytes) -> None:
    guest = lab.guest()
    guest.frames.clear()
    lab.client("nic0").send(0, frame)
    lab.until(lambda: guest.frames)
    assert guest.frames == [frame]


def pid_of(lab: KeptLab) -> int:
    pid: int = lab.netdev("net0").save().passt.pid
    return pid


def test_passt_serves_on(lab: KeptLab, tmp_path: Path) -> None:
    lab.add(PasstOptions(id="net0", path=passt_program.install(tmp_path)))
    lab.nic("nic0", "net0")
    lab.until(lambda: not lab.client("net0").holds)
    pid = pid_of(lab)
    for number in range(3):
        assert_echoes(lab, bytes([number]) * 60)
        lab.kill()
        assert lab.anew == []
        assert pid_of(lab) == pid
        assert not lab.client("net0").holds
    assert_echoes(lab, b"after" * 12)
    os.kill(pid, signal.SIGKILL)
    lab.until(lambda: lab.client("net0").holds)
    lab.until(lambda: not lab.client("net0").holds)
    assert pid_of(lab) != pid
    assert_echoes(lab, b"again" * 12)


def test_passt_that_ended_meanwhile_is_started_again(lab: KeptLab, tmp_path: Path) -> None:
    lab.add(PasstOptions(id="net0", path=passt_program.install(tmp_path)))
    lab.nic("nic0", "net0")
    lab.until(lambda: not lab.client("net0").holds)
    lab.turn()
    os.kill(pid_of(lab), signal.SIGKILL)
    lab.kill()
    lab.until(lambda: HoldKind.DISCONNECTED in lab.client("net0").holds)
    lab.until(lambda: not lab.client("net0").holds)
    assert_echoes(lab, b"again" * 12)


def test_passt_that_waits_for_its_next_start_goes_on_waiting(lab: KeptLab, tmp_path: Path) -> None:
    path = passt_program.install(tmp_path)
    lab.add(PasstOptions(id="net0", path=path))
    lab.until(lambda: not lab.client("net0").holds)
    Path(path).unlink()
    os.kill(pid_of(lab), signal.SIGKILL)
    lab.until(lambda: lab.client("net0").holds)
    lab.turn()
    hold = lab.client("net0").holds[HoldKind.DISCONNECTED]
    lab.kill()
    assert lab.client("net0").holds[HoldKind.DISCONNECTED].text == hold.text
    passt_program.install(tmp_path)
    lab.until(lambda: not lab.client("net0").holds)


def test_user_keeps_its_rules(lab: KeptLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passt_program.install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lab.add(UserOptions(id="net0"))
    lab.nic("nic0", "net0")
    lab.until(lambda: not lab.client("net0").holds)
    lab.netdev("net0").add_forward(f"tcp:127.0.0.1:{free_ports(socket.SOCK_STREAM, 1)[0]}-:22")
    lab.until(lambda: not lab.client("net0").holds)
    rules = lab.netdev("net0").info_usernet()
    pid = pid_of(lab)
    lab.kill()
    assert lab.netdev("net0").info_usernet() == rules
    assert pid_of(lab) == pid
    assert_echoes(lab, bytes(60))


class FarEnd:
    """A vhost-user back-end, in a loop of its own."""

    def __init__(self, path: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.back_end = FakeBackend(self.loop, str(path))

    def until(self, lab: KeptLab, condition: Callable[[], object]) -> None:
        def both() -> object:
            turn(self.loop)
            return condition()

        lab.until(both)

    def close(self) -> None:
        self.back_end.close()
        turn(self.loop)
        self.loop.close()


@pytest.fixture
def far_end(tmp_path: Path) -> Iterator[FarEnd]:
    far_end = FarEnd(tmp_path / "back-end")
    yield far_end
    far_end.close()


def test_vhost_user_keeps_its_back_end(lab: KeptLab, tmp_path: Path, far_end: FarEnd) -> None:
    """Also in the middle of the handshake."""
    address = UnixAddress(path=str(tmp_path / "back-end"))
    lab.chardev(SocketOptions(id="c0", addr=address, reconnect_ms=50))
    lab.add(VhostUserOptions(id="net0", chardev="c0"))
    killed = 0
    while lab.netdev("net0").state is not BackendState.UP:
        messages = len(far_end.back_end.messages)
        far_end.until(
            lab,
            lambda: len(far_end.back_end.messages) > messages or lab.netdev("net0").state is BackendState.UP,  # noqa: B023
        )
        lab.turn()
        lab.kill()
        killed += 1
        assert lab.anew == []
    assert killed > 2
    assert far_end.back_end.connections == 1
    names = far_end.back_end.messages
    assert len(names) == len(set(names)) or names.count("SET_VRING_ENABLE") > 1
    lab.kill()
    assert not lab.client("net0").holds
    assert far_end.back_end.connections == 1
    assert lab.process.chardevs.find("c0").connected
    far_end.back_end.drop()
    far_end.until(lab, lambda: lab.client("net0").holds)
    far_end.until(lab, lambda: not lab.client("net0").holds)
    assert far_end.back_end.connections == 2


def test_passt_with_vhost_user_keeps_its_program_and_its_folder(lab: KeptLab, tmp_path: Path) -> None:
    lab.add(PasstOptions(id="net0", path=passt_program.install(tmp_path), vhost_user=True))
    lab.until(lambda: not lab.client("net0").holds and "pid" in lab.netdev("net0").info_text(0))
    pid, folder = pid_of(lab), lab.netdev("net0").save().folder
    for _ in range(2):
        lab.turn()
        lab.kill()
        assert lab.anew == []
        assert pid_of(lab) == pid
        assert lab.netdev("net0").save().folder == folder
        assert not lab.client("net0").holds
    os.kill(pid, signal.SIGKILL)
    lab.until(lambda: lab.client("net0").holds)
    lab.until(lambda: not lab.client("net0").holds and "pid" in lab.netdev("net0").info_text(0))
    assert pid_of(lab) != pid
    lab.network.delete_netdev("net0", "test")
    assert not Path(folder).exists()


def test_a_folder_that_is_none_of_passt_is_refused(
    lab: KeptLab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is there is not removed."""
    lab.add(PasstOptions(id="net0", path=passt_program.install(tmp_path), vhost_user=True))
    lab.until(lambda: not lab.client("net0").holds)
    netdev = lab.netdev("net0")
    record, fds = netdev.save_kept()
    wrong = msgspec.structs.replace(record, folder=str(tmp_path))
    netdev.save_kept = lambda: (wrong, fds)
    netdev.kept.changed()
    lab.kill()
    assert lab.anew == ["net0"]
    assert "folder" in caplog.text
    assert (tmp_path / "passt").exists()
    lab.until(lambda: not lab.client("net0").holds)

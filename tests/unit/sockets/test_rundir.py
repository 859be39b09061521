"""Tests of the run folder: who owns it, claimed names, and the leftovers of killed instances."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from vnic.cli.client import Refused, find_socket, session
from vnic.sockets import rundir
from vnic.sockets.bind import bind_path
from vnic.sockets.rundir import Claim, RunDirError


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$XDG_RUNTIME_DIR."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_session_folder_excludes_others(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(rundir.folders()) == [runtime / "vnic"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "gone"))
    others = [Path("/run/vnic"), Path(f"/tmp/vnic-{os.getuid()}")]
    assert list(rundir.folders()) == others
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert list(rundir.folders()) == others


def test_claim_makes_folder_and_releases_name(runtime: Path) -> None:
    claim = Claim("lab")
    assert claim.socket_path == runtime / "vnic" / "lab.qmp"
    assert stat.S_IMODE((runtime / "vnic").stat().st_mode) == 0o700
    claim.release()
    assert list((runtime / "vnic").iterdir()) == []


def test_open_folder_gets_mode_0700(runtime: Path) -> None:
    (runtime / "vnic").mkdir(mode=0o755)
    Claim("lab").release()
    assert stat.S_IMODE((runtime / "vnic").stat().st_mode) == 0o700


def test_link_in_place_of_folder_is_refused(runtime: Path) -> None:
    (runtime / "elsewhere").mkdir()
    (runtime / "vnic").symlink_to(runtime / "elsewhere")
    with pytest.raises(RunDirError, match="it is not a folder"):
        Claim("lab")


def test_name_is_claimed_once(runtime: Path) -> None:
    claim = Claim("lab")
    with pytest.raises(RunDirError, match="a vnic named 'lab' is running already"):
        Claim("lab")
    Claim("other").release()
    claim.release()
    Claim("lab").release()


def test_name_of_killed_vnic_is_claimed_again(runtime: Path) -> None:
    folder = runtime / "vnic"
    folder.mkdir(mode=0o700)
    (folder / "lab.lock").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "lab.qmp"))
    claim = Claim("lab")
    with socket.socket(socket.AF_UNIX) as ours:
        bound = bind_path(ours, str(claim.socket_path))
        bound.remove()
    assert not claim.socket_path.exists()
    claim.release()


def test_name_with_too_long_path_is_refused(runtime: Path) -> None:
    with pytest.raises(
        RunDirError, match="is too long: at most 107 bytes; choose a shorter -name or give -qmp"
    ):
        Claim("n" * 100)
    assert list((runtime / "vnic").iterdir()) == []


def test_only_answering_instances_are_running(runtime: Path) -> None:
    assert rundir.running() == {}
    folder = runtime / "vnic"
    folder.mkdir(mode=0o700)
    (folder / "file.qmp").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead.qmp"))
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(folder / "alive.qmp"))
        alive.listen()
        assert rundir.running() == {"alive": folder / "alive.qmp"}


def test_instance_with_full_backlog_is_running(runtime: Path) -> None:
    folder = runtime / "vnic"
    folder.mkdir(mode=0o700)
    waiting = []
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(folder / "busy.qmp"))
        busy.listen(0)
        for _ in range(3):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            waiting.append(client)
            if client.connect_ex(str(folder / "busy.qmp")):
                break
        assert list(rundir.running()) == ["busy"]
    for client in waiting:
        client.close()


# -- the verbs' side --------------------------------------------------------------------------------------------


@pytest.fixture
def listening(runtime: Path) -> Iterator[socket.socket]:
    """A listener at lab.qmp in the usual folder."""
    (runtime / "vnic").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(runtime / "vnic" / "lab.qmp"))
        sock.listen()
        yield sock


def test_own_folder_is_trusted(runtime: Path, listening: socket.socket) -> None:
    assert list(rundir.running()) == ["lab"]
    assert find_socket(None, None) == runtime / "vnic" / "lab.qmp"


def test_folder_of_another_user_is_not_trusted(
    runtime: Path, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(rundir, "folders", lambda: iter([runtime / "vnic"]))
    assert rundir.running() == {}
    if (runtime / "vnic").stat().st_uid:
        with pytest.raises(Refused, match="vnic: it belongs to another user"):
            find_socket(None, None)


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710])
def test_open_folder_is_not_trusted(runtime: Path, listening: socket.socket, mode: int) -> None:
    (runtime / "vnic").chmod(mode)
    assert rundir.running() == {}
    for name in (None, "lab"):
        with pytest.raises(Refused, match=rf"others may enter it \(mode 0{mode:o}\): chmod 700 it"):
            find_socket(name, None)


def test_link_to_folder_is_not_trusted(runtime: Path, listening: socket.socket) -> None:
    (runtime / "vnic").rename(runtime / "elsewhere")
    (runtime / "vnic").symlink_to(runtime / "elsewhere")
    assert rundir.running() == {}


def test_process_of_another_user_is_refused(
    runtime: Path, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of ours this needs a socket that was passed to that process."""
    other = struct.pack("3i", 1, os.getuid() + 1, 1)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(runtime / "vnic" / "lab.qmp"))
        rundir.check_peer(sock)

        class OfAnother:
            def getsockopt(self, *_: int) -> bytes:
                return other

        with pytest.raises(RunDirError, match="a process of another user"):
            rundir.check_peer(OfAnother())  # type: ignore[arg-type]  # plays a socket

    def refuse(_: socket.socket) -> None:
        raise RunDirError("a process of another user (uid 7) answers there")

    path = runtime / "vnic" / "lab.qmp"
    monkeypatch.setattr(rundir, "check_peer", refuse)
    assert rundir.running() == {}
    monkeypatch.setattr(rundir, "running", lambda: {"lab": path})

    async def talk() -> None:
        async with session(argparse.Namespace(name=None, qmp=None)):
            pass

    with pytest.raises(Refused, match=r"another user \(uid 7\) answers there"):
        asyncio.run(talk())

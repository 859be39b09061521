"""Where instances are found: folders that are one's own, names that are held, and what the dead left behind."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from vnic import rundir
from vnic.rundir import Claim, RunDirError


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$XDG_RUNTIME_DIR."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_a_sessions_own_folder_excludes_the_others(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(rundir.folders()) == [runtime / "vnic"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "gone"))
    others = [Path("/run/vnic"), Path(f"/tmp/vnic-{os.getuid()}")]
    assert list(rundir.folders()) == others
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert list(rundir.folders()) == others


def test_a_claim_makes_the_folder_and_gives_it_up(runtime: Path) -> None:
    claim = Claim("lab")
    assert claim.socket_path == runtime / "vnic" / "lab.qmp"
    assert stat.S_IMODE((runtime / "vnic").stat().st_mode) == 0o700
    claim.release()
    assert list((runtime / "vnic").iterdir()) == []


def test_a_folder_that_others_may_enter_is_closed_to_them(runtime: Path) -> None:
    (runtime / "vnic").mkdir(mode=0o755)
    Claim("lab").release()
    assert stat.S_IMODE((runtime / "vnic").stat().st_mode) == 0o700


def test_a_folder_that_was_planted_is_refused(runtime: Path) -> None:
    (runtime / "elsewhere").mkdir()
    (runtime / "vnic").symlink_to(runtime / "elsewhere")
    with pytest.raises(RunDirError, match="it is not a folder"):
        Claim("lab")


def test_a_name_is_held_by_one(runtime: Path) -> None:
    claim = Claim("lab")
    with pytest.raises(RunDirError, match="a vnic named 'lab' is running already"):
        Claim("lab")
    Claim("other").release()
    claim.release()
    Claim("lab").release()


def test_what_a_dead_vnic_left_is_taken_over(runtime: Path) -> None:
    folder = runtime / "vnic"
    folder.mkdir(mode=0o700)
    (folder / "lab.lock").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "lab.qmp"))
    claim = Claim("lab")
    assert not claim.socket_path.exists()
    claim.release()


def test_a_name_that_makes_the_path_too_long_is_refused(runtime: Path) -> None:
    with pytest.raises(
        RunDirError, match="is too long: at most 107 bytes; choose a shorter -name or give -qmp"
    ):
        Claim("n" * 100)
    assert list((runtime / "vnic").iterdir()) == []


def test_running_are_those_that_answer(runtime: Path) -> None:
    assert rundir.running() == {}
    folder = runtime / "vnic"
    folder.mkdir()
    (folder / "file.qmp").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead.qmp"))
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(folder / "alive.qmp"))
        alive.listen()
        assert rundir.running() == {"alive": folder / "alive.qmp"}


def test_one_whose_backlog_is_full_answers_too(runtime: Path) -> None:
    folder = runtime / "vnic"
    folder.mkdir()
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

"""-pidfile: written, locked, removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vnic.machine.pidfile import PidFile
from vnic.net.errors import NetError


def test_it_holds_the_pid_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("4711 and more from an earlier run")
    pidfile = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    pidfile.remove()
    assert not path.exists()


def test_it_can_be_removed_by_another_first(tmp_path: Path) -> None:
    pidfile = PidFile(str(tmp_path / "pid"))
    (tmp_path / "pid").unlink()
    pidfile.remove()


def test_another_process_finds_it_locked(tmp_path: Path) -> None:
    path = str(tmp_path / "pid")
    pidfile = PidFile(path)
    code = f"from vnic.machine.pidfile import PidFile; PidFile({path!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "Could not lock" in result.stderr
    pidfile.remove()


@pytest.mark.parametrize("name", ["no/pid", "nul\0pid"])
def test_a_path_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(NetError, match="cannot create PID file: Could not create"):
        PidFile(str(tmp_path / name))

"""-pidfile: written, locked, removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vnic.net.errors import NetError
from vnic.pidfile import PidFile


def test_pidfile_holds_the_pid_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("4711 and more from an earlier run")
    pidfile = PidFile(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    pidfile.remove()
    assert not path.exists()


def test_removal_by_another_program_is_no_error(tmp_path: Path) -> None:
    pidfile = PidFile(str(tmp_path / "pid"))
    (tmp_path / "pid").unlink()
    pidfile.remove()


def test_pidfile_is_locked_for_other_processes(tmp_path: Path) -> None:
    path = str(tmp_path / "pid")
    pidfile = PidFile(path)
    code = f"from vnic.pidfile import PidFile; PidFile({path!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "Could not lock" in result.stderr
    pidfile.remove()


@pytest.mark.parametrize("name", ["no/pid", "nul\0pid"])
def test_impossible_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NetError, match="cannot create PID file: Could not create"):
        PidFile(str(tmp_path / name))


@pytest.mark.timeout(20)
def test_only_a_plain_file_is_taken(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(NetError, match="it is a FIFO, and has to be a plain file"):
        PidFile(str(fifo))
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(NetError, match="it is a FIFO, and has to be a plain file"):
        PidFile(str(fifo))
    os.close(reader)
    with pytest.raises(NetError, match="it is a folder, and has to be a plain file"):
        PidFile(str(tmp_path))
    with pytest.raises(NetError, match="it is a device, and has to be a plain file"):
        PidFile("/dev/null")

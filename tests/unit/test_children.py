"""Programs end with the process that started them, also where that is killed, and nobody waits for one."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vnic import children
from vnic.children import Child, check_executable, with_us

SOURCE = Path(__file__).parents[2] / "src"


def outcome(words: list[str]) -> tuple[int, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.needs("setpriv")
def test_program_is_not_started_without_parent() -> None:
    words = with_us(["echo", "here", "and there"])
    assert outcome(words) == (0, "here and there\n")
    words[words.index(str(os.getpid()))] = str(os.getpid() + 1)  # as init is the parent of an orphan
    assert outcome(words) == (1, "")


PARENT = """
import subprocess, sys
from vnic.children import with_us
child = subprocess.Popen(with_us(["sleep", "1000"], sys.argv[1]))
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("number", ["KILL", "TERM"])
def test_program_ends_with_parent(number: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, number],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    ) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
    try:
        assert select.select([pidfd], [], [], 60)[0], "it outlived its parent"
    finally:
        os.close(pidfd)


def test_program_runs_without_setpriv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert with_us(["true"]) == ["true"]


def test_unusable_program_is_refused_before_start(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch(mode=0o644)
    check_executable("sh")
    check_executable(shutil.which("sh") or "")
    for path, error in (
        ("no-such-program", FileNotFoundError),
        (str(tmp_path / "none"), FileNotFoundError),
        (str(plain), PermissionError),
        (str(tmp_path), PermissionError),
    ):
        with pytest.raises(error):
            check_executable(path)


def test_child_reports_exit_status() -> None:
    async def main() -> None:
        child = Child(asyncio.get_running_loop(), ["sh", "-c", "exit 3"])
        assert await child.wait() == 3
        child.end()
        child.kill()
        assert await child.wait() == 3

    asyncio.run(asyncio.wait_for(main(), 60))


def test_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "GRACE_S", 0.01)

    async def main() -> None:
        child = Child(asyncio.get_running_loop(), ["sh", "-c", "trap '' TERM; exec sleep 1000"])
        child.end()
        assert await child.wait() in (-signal.SIGKILL, -signal.SIGTERM)  # by the speed of its shell

    asyncio.run(asyncio.wait_for(main(), 60))

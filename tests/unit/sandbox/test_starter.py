"""The starter: programs run as if vnic had started them, only those that it knows, and none outlives its use."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vnic import children
from vnic.children import Child
from vnic.sandbox.starter import Starter, fork_starter

SHELL = ("sh", "-c")


@pytest.fixture
def starter() -> Iterator[Starter]:
    made = fork_starter([SHELL, ("no-such-program",)])
    children.start_by(made)
    try:
        yield made
    finally:
        children.start_by(None)
        made.close()


async def status_of(script: str, stdout: int | None = None, pass_fds: tuple[int, ...] = ()) -> int:
    loop = asyncio.get_running_loop()
    return await Child(loop, [*SHELL, script], stdout=stdout, pass_fds=pass_fds).wait()


def test_exit_status_is_that_of_the_program(starter: Starter) -> None:
    assert asyncio.run(status_of("exit 3")) == 3
    assert asyncio.run(status_of("kill -TERM $$")) == -signal.SIGTERM


def test_program_has_the_descriptors_under_their_numbers(starter: Starter, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "more").open("wb") as more:
        number = more.fileno()
        script = f"ls /proc/$$/fd; echo here > /proc/self/fd/{number}"
        assert asyncio.run(status_of(script, stdout=out.fileno(), pass_fds=(number,))) == 0
    assert {int(fd) for fd in (tmp_path / "out").read_text().split()} == {0, 1, 2, number}
    assert (tmp_path / "more").read_text() == "here\n"


def test_descriptors_may_trade_numbers(starter: Starter, tmp_path: Path) -> None:
    files = [(tmp_path / name).open("w+") for name in "ab"]
    first, second = (file.fileno() for file in files)
    process = starter.launch(
        [*SHELL, f"echo a > /proc/self/fd/{second}; echo b > /proc/self/fd/{first}"],
        {0: first, 1: 1, 2: 2, first: second, second: first},
        ends_with_us=False,
    )
    assert process.reap() == 0
    assert [(tmp_path / name).read_text() for name in "ab"] == ["a\n", "b\n"]
    for file in files:
        file.close()


def test_program_of_another_command_line_is_refused(starter: Starter) -> None:
    async def main() -> None:
        for command in (["touch", "here"], ["sh"], ["sh", "-x", "-c", "true"], []):
            with pytest.raises(PermissionError, match="none of the programs that the command line names"):
                Child(asyncio.get_running_loop(), command)

    asyncio.run(main())


def test_starter_refuses_what_vnic_should_have_refused(starter: Starter) -> None:
    starter._commands = (("touch",),)  # as a vnic that is not itself any more
    with pytest.raises(PermissionError):
        starter.launch(["touch", "here"], {0: 0, 1: 1, 2: 2}, ends_with_us=False)
    assert not Path("here").exists()


@pytest.mark.parametrize(
    "message", [b"x", b"{}", b"[]", b'{"command":3}', b'{"command":["sh","-c"],"targets":[0,1],"ends":0}']
)
def test_starter_survives_a_bad_request(starter: Starter, message: bytes) -> None:
    starter._control.send(message)
    assert b"errno" in starter._control.recv(100)
    assert asyncio.run(status_of("exit 4")) == 4


def test_error_of_exec_is_that_of_the_start(starter: Starter) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError) as refused:
            Child(asyncio.get_running_loop(), ["no-such-program"])
        assert refused.value.errno == errno.ENOENT

    asyncio.run(main())


def test_child_is_killed(starter: Starter) -> None:
    async def main() -> None:
        child = Child(asyncio.get_running_loop(), [*SHELL, "trap '' TERM; exec sleep 1000"])
        child.end()
        assert await child.wait() in (-signal.SIGKILL, -signal.SIGTERM)
        child.kill()

    asyncio.run(main())


def test_programs_that_end_with_vnic_end_with_the_starter() -> None:
    starter = fork_starter([SHELL])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        fds = {0: 0, 1: 1, 2: 2, number: number}
        process = starter.launch([*SHELL, "exec sleep 1000"], fds, ends_with_us=True)
        theirs.close()
        starter.close()
        assert ours.recv(1) == b"", "the program still has its end"
        assert process.reap() == -signal.SIGKILL


def test_without_a_starter_a_child_is_our_own() -> None:
    async def main() -> None:
        child = Child(asyncio.get_running_loop(), ["sh", "-c", "exit 3"], stdout=subprocess.DEVNULL)
        assert await child.wait() == 3

    asyncio.run(main())


def test_late_answer_is_not_that_of_the_next_request(starter: Starter) -> None:
    fds = {0: 0, 1: 1, 2: 2}
    os.kill(starter._pid, signal.SIGSTOP)
    starter._control.settimeout(0.05)
    with pytest.raises(OSError, match="vnic's starter does not answer: timed out"):
        starter.launch([*SHELL, "exit 3"], fds, ends_with_us=False)
    os.kill(starter._pid, signal.SIGCONT)
    with pytest.raises(OSError, match="does not answer"):
        starter.launch([*SHELL, "exit 4"], fds, ends_with_us=False)


@pytest.mark.parametrize("name", ["pidfd_open", "pipe"])
def test_starter_without_descriptors_says_so_and_goes_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here, call = os.getpid(), getattr(os, name)

    def none_left(*arguments: int) -> object:
        """Where the starter watches what it has started."""
        watches = sys._getframe(1).f_code.co_name == "_watched"
        if os.getpid() != here and watches:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return call(*arguments)

    monkeypatch.setattr(os, name, none_left)
    starter = fork_starter([SHELL])
    for _ in range(2):
        with pytest.raises(OSError, match="Too many open files"):
            starter.launch([*SHELL, "exec sleep 1000"], {0: 0, 1: 1, 2: 2}, ends_with_us=False)
    starter.close()

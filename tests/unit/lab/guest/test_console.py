"""The command channel: framing by random tokens, whatever the commands print, and clear ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from vnic.lab.guest.console import (
    COMMAND_LIMIT_BYTES,
    Completed,
    Console,
    checked,
)
from vnic.lab.guest.errors import CommandFailed, GuestError, GuestGone

Answer = Callable[[str], tuple[bytes, int]]
"""From a script to its output and its status."""


class Shell:
    """The guest's end, as init.sh does it, with a function in the shell's place."""

    def __init__(self, answer: Answer) -> None:
        host, self._end = socket.socketpair()
        self.console = Console(host)
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._end, self._end.makefile("rb") as lines, contextlib.suppress(OSError):
            self._end.sendall(b"a line of the kernel\nREADY\n")
            while token := lines.readline():
                script = b""
                while (line := lines.readline()) != token and line:
                    script += line
                output, status = self._answer(script.decode())
                if status < 0:
                    return
                self._end.sendall(output + b"\n%s %d\n" % (token.strip(), status))

    def close(self) -> None:
        self.console.close()
        self._thread.join()


@pytest.fixture
def make_shell() -> Iterator[Callable[[Answer], Console]]:
    shells: list[Shell] = []

    def make(answer: Answer) -> Console:
        shells.append(Shell(answer))
        shells[-1].console.wait_ready(60)
        return shells[-1].console

    yield make
    for shell in shells:
        shell.close()


MakeShell = Callable[[Answer], Console]


def test_returns_output_and_status(make_shell: MakeShell) -> None:
    console = make_shell(lambda script: (script.upper().encode(), 3))
    assert console.run("echo hello") == Completed(3, "ECHO HELLO\n")


def test_runs_scripts_of_several_lines(make_shell: MakeShell) -> None:
    console = make_shell(lambda script: (str(script.count("\n")).encode(), 0))
    assert console.run("one\ntwo\nthree").output == "3"


@pytest.mark.parametrize(
    "output", [b"", b"\n\n", b"READY\n", b"vnic-0123 0\n", b"\xff\xfe\0", b"x" * 300_000]
)
def test_takes_any_output(make_shell: MakeShell, output: bytes) -> None:
    console = make_shell(lambda _: (output, 0))
    for _ in range(2):
        assert console.run("anything") == Completed(0, output.decode(errors="replace"))


def test_a_started_command_bars_others_until_its_result_is_taken(make_shell: MakeShell) -> None:
    console = make_shell(lambda _: (b"done", 0))
    pending = console.start("first")
    with pytest.raises(GuestError, match="still busy with 'first'"):
        console.start("second")
    assert pending.result().output == "done"
    with pytest.raises(GuestError, match="taken already"):
        pending.result()
    assert console.run("second").output == "done"


def test_threads_take_turns(make_shell: MakeShell) -> None:
    console = make_shell(lambda script: (script.encode(), 0))
    results: dict[int, str] = {}

    def run(index: int) -> None:
        results[index] = console.run(f"command {index}").output

    threads = [threading.Thread(target=run, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {index: f"command {index}\n" for index in range(8)}


def test_says_what_came_when_the_answer_does_not(make_shell: MakeShell) -> None:
    gate = threading.Event()

    def answer(script: str) -> tuple[bytes, int]:
        gate.wait()
        return b"", 0

    console = make_shell(answer)
    with pytest.raises(GuestError, match=r"no answer from the guest in 0\.05 s"):
        console.run("sleep 1000", 0.05)
    gate.set()


def test_says_when_the_guest_is_gone(make_shell: MakeShell) -> None:
    console = make_shell(lambda _: (b"", -1))
    with pytest.raises(GuestGone):
        console.run("poweroff -f")


def test_refuses_what_the_guests_tty_would_cut(make_shell: MakeShell) -> None:
    console = make_shell(lambda script: (str(len(script)).encode(), 0))
    assert console.run("x" * COMMAND_LIMIT_BYTES).output == str(COMMAND_LIMIT_BYTES + 1)
    with pytest.raises(GuestError, match="longer than"):
        console.run("x" * (COMMAND_LIMIT_BYTES + 1))


def test_checked_raises_with_the_command_and_what_it_said() -> None:
    assert checked("true", Completed(0, "fine\n")) == "fine"
    with pytest.raises(CommandFailed, match=r"'cat x' ended with status 1: no such file") as error:
        checked("cat x", Completed(1, "no such file\n"))
    assert error.value.status == 1

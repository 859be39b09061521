"""`vnic run --keep`: the same `vnic run` as a child of a small supervisor, which starts it again when it dies.

`main` calls `run_kept` before it imports anything that `run` needs. What concerns the process that a script or a person
started is done here: -daemonize, -pidfile and the terminal.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vnic.cli.daemon import fork_to_background, leave_terminal
from vnic.cli.option_file import OptionFileError, expand
from vnic.keeper import OPTIONS
from vnic.keeper.supervisor import Supervisor
from vnic.net.errors import NetError
from vnic.pidfile import PidFile
from vnic.plainfile import open_plain
from vnic.printable import one_line
from vnic.quota import allow_open_files

EXIT_REFUSED = 1
SHELL_SIGNAL = 128
"""A shell's exit code of a program that a signal ended is this much more than the signal's number."""


class Words(NamedTuple):
    """What of the command line is the supervisor's; control checks everything and is given all of it."""

    command_line: list[str]
    """Without --keep."""
    daemonize: bool = False
    pidfile: str | None = None
    log_file: str | None = None
    confined: bool = False
    """Control gives up rights that the supervisor has: it must not have it start another program."""


def scan(words: Sequence[str]) -> Words:
    """Find the supervisor's options. A word that begins with a minus counts as an option wherever it is: no option of
    `vnic run` takes an argument that is the name of one of these."""
    command_line = [word for word in words if word not in OPTIONS]
    values: dict[str, str] = {}
    for word, following in itertools.pairwise(command_line):
        values[_option(word)] = following
    daemonize = any(_option(word) == "daemonize" for word in command_line)
    # What it starts would be outside of the sandbox, and this user's instead of that of -run-with.
    confined = values.get("sandbox", "off").partition(",")[0] != "off" or "run-with" in values
    return Words(command_line, daemonize, values.get("pidfile"), values.get("D"), confined)


def _option(word: str) -> str:
    return word.removeprefix("-").removeprefix("-") if word.startswith("-") else ""


def run_kept(words: Sequence[str]) -> int:
    """The verb, with `run` as the first word. Returns the exit code of control, once that ended for good. Files of
    options are read only once: a later start must not find half of a change."""
    try:
        found = scan(expand(words))
    except OptionFileError as refused:
        print(f"vnic: {one_line(str(refused))}", file=sys.stderr)
        return EXIT_REFUSED
    background = None
    if found.daemonize:
        forked = fork_to_background()
        if isinstance(forked, int):
            return forked
        background = forked
    allow_open_files()
    pidfile = None
    try:
        pidfile = PidFile(found.pidfile) if found.pidfile is not None else None
    except NetError as refused:
        print(f"vnic: {one_line(refused.desc)}", file=sys.stderr)
        return EXIT_REFUSED
    log = _Log(found.log_file)

    def up(pid: int) -> None:
        nonlocal background
        if background is not None:
            log.path = _log_of(pid)
            leave_terminal()
            background.ready()
            background = None

    try:
        with _terminal() as restore:
            supervisor = Supervisor(
                program(),
                found.command_line,
                first_fd=_after_inherited(),
                other_programs=not found.confined,
                say=log.say,
                up=up,
                gone=restore,
            )
            outcome = supervisor.run()
    finally:
        if pidfile is not None:
            pidfile.remove()
    return outcome if outcome >= 0 else _end_by(-outcome)


def program() -> list[str]:
    """How this program was started, before its words: the interpreter with its options, and the script or module."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]


def _after_inherited() -> int:
    """The number after the highest descriptor that the user passed, for options such as `fd=3`."""
    inherited = [2]
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the folder that is being listed
            if os.get_inheritable(int(name)):
                inherited.append(int(name))
    return max(inherited) + 1


def _end_by(number: int) -> int:
    """End as control did, so that a shell or a script can tell."""
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
    return SHELL_SIGNAL + number


class _Log:
    """Where the supervisor's own lines go: to -D's file or, in the background, to control's log; else to stderr."""

    def __init__(self, path: str | None) -> None:
        self.path = path

    def say(self, text: str) -> None:
        line = f"vnic: warning: keeper: {one_line(text)}\n"
        if self.path is None:
            with contextlib.suppress(OSError, ValueError):  # who read it may have gone, and control goes on
                print(line, end="", file=sys.stderr, flush=True)
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
        with contextlib.suppress(OSError, ValueError):  # as control, which drops a line that it cannot write
            file = open_plain(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                os.write(file, f"{stamp}.{int(now * 1000) % 1000:03d} {line}".encode())
            finally:
                os.close(file)


def _log_of(pid: int) -> str:
    """The file that control writes its log to, when it has gone to the background: its stderr."""
    try:
        return os.readlink(f"/proc/{pid}/fd/2")
    except OSError:
        return os.devnull


@contextlib.contextmanager
def _terminal() -> Iterator[Callable[[], None]]:
    """A function that gives the terminal the settings of now: a monitor that was killed leaves it without echo."""
    try:
        before = termios.tcgetattr(0)
    except (OSError, termios.error):
        yield lambda: None
        return

    def restore() -> None:
        with contextlib.suppress(OSError, termios.error):
            if os.tcgetpgrp(0) == os.getpgrp():  # else the write would stop this process
                termios.tcsetattr(0, termios.TCSADRAIN, before)

    try:
        yield restore
    finally:
        restore()

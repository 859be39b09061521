"""Starts other programs, such that they end when vnic ends and the loop never waits for one.

The back-ends that run a program (passt, scripts, helpers) and the engine of vnic-wire make a `Child`, and watch it in
the loop. With `-sandbox on` this process cannot start programs: `start_by` names the process that does it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Final, Protocol, TypeAlias

GRACE_S = 0.2
"""The time between SIGTERM and SIGKILL."""

# If our process was killed before setpriv requested the signal, the parent has changed: start nothing.
_SCRIPT: Final = '[ "$PPID" = "$0" ] && exec "$@"'


def with_us(command: Sequence[str], number: str = "KILL") -> list[str]:
    """The command as a child that gets a signal when this thread ends (PR_SET_PDEATHSIG).

    Without setpriv (util-linux) it is the command unchanged. A set-uid program that changes its user loses the signal.
    """
    if shutil.which("setpriv") is None:
        return list(command)
    return ["setpriv", "--pdeathsig", number, "sh", "-c", _SCRIPT, str(os.getpid()), *command]


def check_executable(path: str) -> None:
    """Raise the OSError of exec in advance where that is possible; with `with_us` only a shell would see it."""
    if os.sep not in path:
        if shutil.which(path) is None:
            raise FileNotFoundError(2, os.strerror(2), path)
        return
    os.stat(path)
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise PermissionError(13, os.strerror(13), path)


async def wait_readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait for what a child sends on a socket, or for the end of it."""
    there = asyncio.Event()
    loop.add_reader(sock, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(sock)


class Adopted:
    """A program that the process before has started. Its exit status is unknown: it is another process's child."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pidfd: int) -> None:
        """`pidfd` is this object's."""
        self._loop = loop
        self.pidfd = pidfd
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[int | None] = loop.create_future()
        """Done when it has ended, with None. Do not cancel it."""
        loop.add_reader(pidfd, self._end_seen)

    def _end_seen(self) -> None:
        self._loop.remove_reader(self.pidfd)
        os.close(self.pidfd)
        self.pidfd = -1
        if self._timer is not None:
            self._timer.cancel()
        if not self.ended.done():
            self.ended.set_result(None)

    async def wait(self) -> int | None:
        """Wait until it ends."""
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        """Send SIGTERM, and SIGKILL after GRACE_S. It returns at once."""
        if not self.ended.done() and self._timer is None:
            self._signal(signal.SIGTERM)
            self._timer = self._loop.call_later(GRACE_S, self.kill)

    def _signal(self, number: int) -> None:
        if not self.ended.done():
            with suppress(OSError):  # it has ended in this moment
                signal.pidfd_send_signal(self.pidfd, number)


Stream: TypeAlias = int | socket.socket | IO[bytes] | None
"""As subprocess.Popen takes it: a descriptor, subprocess.DEVNULL, or None for that of this process."""


class Process(Protocol):
    """A program that was started."""

    pid: int
    pidfd: int
    """The process; until `reap`."""
    ending: int
    """A descriptor that becomes readable when it has ended."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. A program that has ended is no error."""

    def reap(self) -> int:
        """Its exit status, as Popen's returncode, when `ending` is readable. It closes the descriptors."""


class Launcher(Protocol):
    """Starts programs in the place of this process."""

    def launch(self, command: Sequence[str], fds: Mapping[int, int], *, ends_with_us: bool) -> Process:
        """Start a program that has our descriptors `fds` under the numbers that are their keys. Raises OSError."""


_launcher: Launcher | None = None


def start_by(launcher: Launcher | None) -> None:
    """Have every Child started by `launcher`; None: by this process."""
    global _launcher
    _launcher = launcher


class _OwnProcess:
    """A program that this process has started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        try:
            self.pidfd = self.ending = os.pidfd_open(process.pid)
        except OSError:  # no descriptors left
            process.kill()
            process.wait()
            raise

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def reap(self) -> int:
        os.close(self.ending)
        return self._process.wait()  # it has ended: this call returns at once


class Child:
    """A program beside the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command: Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        pass_fds: Sequence[int] = (),
        ends_with_us: bool = False,
    ) -> None:
        """Raises the OSErrors of its start. `pass_fds` keep their numbers. `ends_with_us`: it is killed when this
        process ends (see `with_us`)."""
        self._loop = loop
        if _launcher is not None:
            fds = {0: stdin, 1: stdout, 2: stderr, **{fd: fd for fd in pass_fds}}
            self._process = _launch(_launcher, command, fds, ends_with_us)
        else:
            words = with_us(command) if ends_with_us else list(command)
            files = [
                each.fileno() if isinstance(each, socket.socket) else each for each in (stdin, stdout, stderr)
            ]
            self._process = _OwnProcess(
                subprocess.Popen(words, stdin=files[0], stdout=files[1], stderr=files[2], pass_fds=pass_fds)
            )
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[int] = loop.create_future()
        """Its exit status, as Popen's returncode. Do not cancel it."""
        loop.add_reader(self._process.ending, self._reap)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pidfd(self) -> int:
        """The process, as long as it has not ended."""
        return self._process.pidfd

    def _reap(self) -> None:
        self._loop.remove_reader(self._process.ending)
        if self._timer is not None:
            self._timer.cancel()
        status = self._process.reap()
        if not self.ended.done():
            self.ended.set_result(status)

    async def wait(self) -> int:
        """Wait until it ends; returns its exit status."""
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        if not self.ended.done():
            self._process.signal(signal.SIGKILL)

    def end(self) -> None:
        """Send SIGTERM, and SIGKILL after GRACE_S. It returns at once."""
        if not self.ended.done() and self._timer is None:
            self._process.signal(signal.SIGTERM)
            self._timer = self._loop.call_later(GRACE_S, self.kill)


def _launch(
    launcher: Launcher, command: Sequence[str], fds: Mapping[int, Stream], ends_with_us: bool
) -> Process:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        numbers = {target: _number(stream, target, null) for target, stream in fds.items()}
        return launcher.launch(command, numbers, ends_with_us=ends_with_us)
    finally:
        os.close(null)


def _number(stream: Stream, target: int, null: int) -> int:
    if stream is None:
        return target
    if isinstance(stream, int):
        return null if stream == subprocess.DEVNULL else stream
    return stream.fileno()

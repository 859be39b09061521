"""Starts other programs, such that they end when vnic ends and the loop never waits for one.

The back-ends that run a program (passt, slirp, helpers) call it: `with_us` for every program that would outlive vnic,
and `Child` to watch one in the loop.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

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


class Child:
    """A program beside the loop. `how` is for subprocess.Popen; its OSErrors are passed on. Without `stdin` it reads
    nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, command: Sequence[str], **how: Any) -> None:
        self._loop = loop
        self._process = subprocess.Popen(list(command), **{"stdin": subprocess.DEVNULL, **how})
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:  # no descriptors left
            self._process.kill()
            self._process.wait()
            raise
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[int] = loop.create_future()
        """Its exit status, as Popen's returncode. Do not cancel it."""
        loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pidfd(self) -> int:
        """The process, as long as it has not ended."""
        return self._pidfd

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._timer is not None:
            self._timer.cancel()
        status = self._process.wait()  # it has ended: this call returns at once
        if not self.ended.done():
            self.ended.set_result(status)

    async def wait(self) -> int:
        """Wait until it ends; returns its exit status."""
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        if not self.ended.done():
            self._process.send_signal(signal.SIGKILL)

    def end(self) -> None:
        """Send SIGTERM, and SIGKILL after GRACE_S. It returns at once."""
        if not self.ended.done() and self._timer is None:
            self._process.send_signal(signal.SIGTERM)
            self._timer = self._loop.call_later(GRACE_S, self.kill)

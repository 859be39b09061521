"""The programs that we start: they end when we do, and run beside the loop, which never waits for one.

`with_us` is for every program that would outlive us; `Child` watches one in the loop.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from typing import Any, Final

GRACE_S = 0.2
"""Between SIGTERM and SIGKILL."""

# Who is killed before setpriv has asked for the signal is nobody's parent any more: then nothing is started.
_SCRIPT: Final = '[ "$PPID" = "$0" ] && exec "$@"'


def with_us(command: Sequence[str], number: str = "KILL") -> list[str]:
    """The command as a child of this process that gets a signal when this thread ends (PR_SET_PDEATHSIG).

    Where the system has no setpriv (util-linux), the command as it is. A program that changes its user by set-uid
    loses the signal.
    """
    if shutil.which("setpriv") is None:
        return list(command)
    return ["setpriv", "--pdeathsig", number, "sh", "-c", _SCRIPT, str(os.getpid()), *command]


def check_executable(path: str) -> None:
    """Raise the OSError that exec would, as far as it can be told before; behind `with_us` only a shell hears it."""
    if os.sep not in path:
        if shutil.which(path) is None:
            raise FileNotFoundError(2, os.strerror(2), path)
        return
    os.stat(path)
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise PermissionError(13, os.strerror(13), path)


class Child:
    """A program beside the loop. `how` is for subprocess.Popen, whose OSErrors are passed on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, command: Sequence[str], **how: Any) -> None:
        self._loop = loop
        self._process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, **how)
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:  # no descriptors
            self._process.kill()
            self._process.wait()
            raise
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[int] = loop.create_future()
        """Its exit status, as Popen's returncode; not to be cancelled."""
        loop.add_reader(self._pidfd, self._reap)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._timer is not None:
            self._timer.cancel()
        status = self._process.wait()  # it has ended: this only asks how
        if not self.ended.done():
            self.ended.set_result(status)

    async def wait(self) -> int:
        """Its exit status, when it has ended."""
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        if not self.ended.done():
            self._process.send_signal(signal.SIGKILL)

    def end(self) -> None:
        """SIGTERM, and SIGKILL after GRACE_S; returns at once."""
        if not self.ended.done() and self._timer is None:
            self._process.send_signal(signal.SIGTERM)
            self._timer = self._loop.call_later(GRACE_S, self.kill)

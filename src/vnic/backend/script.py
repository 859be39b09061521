"""Network scripts of tap (`script=`, `downscript=`): run beside the loop, so that a slow one holds up only its wire.

QEMU waits for them with everything else standing still (net/tap.c: launch_script).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable

from vnic.net.errors import NetError

from .base import log

DOWN_SCRIPT_S = 2.0


class NetworkScript:
    """One run of `path ifname`. `ended(None)` is called when it exits with 0, else with what to say."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        ifname: str,
        ended: Callable[[str | None], None],
    ) -> None:
        self._loop = loop
        self._path = path
        self._ended = ended
        try:
            self._process = subprocess.Popen([path, ifname], stdin=subprocess.DEVNULL)
        except OSError as error:
            raise NetError(f"could not launch network script {path}: {error.strerror}") from None
        self._pidfd = os.pidfd_open(self._process.pid)
        loop.add_reader(self._pidfd, self._exited)

    def _exited(self) -> None:
        self._close()
        status = self._process.wait()
        if status == 0:
            self._ended(None)
        else:
            self._ended(f"network script {self._path} failed with status {_wait_word(status)}")

    def cancel(self) -> None:
        """Its interface goes away: end it."""
        self._close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _close(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)


def run_down_script(path: str, ifname: str) -> None:
    """Run a `downscript` to its end, for DOWN_SCRIPT_S at most: the interface goes away right after."""
    try:
        status = subprocess.run([path, ifname], stdin=subprocess.DEVNULL, timeout=DOWN_SCRIPT_S).returncode
    except OSError as error:
        log.warning("could not launch network script %s: %s", path, error.strerror)
    except subprocess.TimeoutExpired:
        log.warning("network script %s was ended: it ran for more than %g s", path, DOWN_SCRIPT_S)
    else:
        if status:
            log.warning("network script %s failed with status %d", path, _wait_word(status))


def _wait_word(status: int) -> int:
    """An exit status as waitpid packs it, which is how QEMU prints it."""
    return -status if status < 0 else status << 8

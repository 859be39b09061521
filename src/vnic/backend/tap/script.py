"""Network scripts of tap (`script=`, `downscript=`), which run beside the loop, so that only the wire waits.

`tap.backend` starts them. QEMU blocks until they end (net/tap.c: launch_script).
"""

from __future__ import annotations

import asyncio

from vnic.children import Child, check_executable
from vnic.net.errors import NetError

DOWN_SCRIPT_S = 2.0
"""The time that the interface of a deleted netdev stays for its `downscript`."""


def start_script(loop: asyncio.AbstractEventLoop, path: str, ifname: str, *, outlives: bool = False) -> Child:
    """Start `path ifname`. NetError if it cannot be run. `outlives`: it is not killed with this process, because
    another one goes on."""
    try:
        check_executable(path)
        return Child(loop, [path, ifname], ends_with_us=not outlives)
    except OSError as error:
        raise NetError(f"could not launch network script {path}: {error.strerror}") from None


def script_failure(path: str, status: int) -> str | None:
    """The error text for a script that ended with this status; None if it succeeded."""
    return f"network script {path} failed with status {_wait_word(status)}" if status else None


async def run_down_script(
    loop: asyncio.AbstractEventLoop, path: str, ifname: str, *, outlives: bool = False
) -> str | None:
    """Run a `downscript` for DOWN_SCRIPT_S at most, because the interface is deleted right after. Returns the error
    text, if any."""
    try:
        child = start_script(loop, path, ifname, outlives=outlives)
    except NetError as error:
        return error.desc
    try:
        async with asyncio.timeout(DOWN_SCRIPT_S):
            return script_failure(path, await child.wait())
    except TimeoutError:
        return f"network script {path} was ended: it ran for more than {DOWN_SCRIPT_S:g} s"
    finally:
        child.kill()


def _wait_word(status: int) -> int:
    """The exit status in the form of waitpid, which QEMU prints."""
    return -status if status < 0 else status << 8

"""Network scripts of tap (`script=`, `downscript=`): run beside the loop, so that a slow one holds up only its wire.

QEMU waits for them with everything else standing still (net/tap.c: launch_script).
"""

from __future__ import annotations

import asyncio

from vnic.children import Child, check_executable, with_us
from vnic.net.errors import NetError

DOWN_SCRIPT_S = 2.0
"""How long the interface of a netdev that was deleted stays for its `downscript`."""


def start_script(loop: asyncio.AbstractEventLoop, path: str, ifname: str) -> Child:
    """Begin `path ifname`. NetError where it cannot be run."""
    try:
        check_executable(path)
        return Child(loop, with_us([path, ifname]))
    except OSError as error:
        raise NetError(f"could not launch network script {path}: {error.strerror}") from None


def script_failure(path: str, status: int) -> str | None:
    """What to say of a script that ended so; None for one that did its work."""
    return f"network script {path} failed with status {_wait_word(status)}" if status else None


async def run_down_script(loop: asyncio.AbstractEventLoop, path: str, ifname: str) -> str | None:
    """Run a `downscript`, for DOWN_SCRIPT_S at most: the interface goes right after. What went wrong, if anything."""
    try:
        child = start_script(loop, path, ifname)
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
    """An exit status as waitpid packs it, which is how QEMU prints it."""
    return -status if status < 0 else status << 8

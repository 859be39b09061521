"""bridge: a tap that is a port of a Linux bridge of this host (QEMU's `-netdev bridge`). The registry makes it.

If vnic may do so, it makes the tap itself. Otherwise it runs QEMU's setuid helper, which checks the permission
(/etc/qemu/bridge.conf) and passes the tap over a socket.
"""

from __future__ import annotations

import array
import asyncio
import os
import shlex
import socket
from collections.abc import Coroutine
from typing import Any

from vnic.backend.base import BackendContext
from vnic.backend.options import BridgeOptions, TapOptions
from vnic.backend.tap.backend import TapBackend
from vnic.backend.tap.device import add_to_bridge, open_tap
from vnic.children import Child, wait_readable
from vnic.net.errors import NetError
from vnic.sockets import unblock

DEFAULT_BRIDGE = "br0"
HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
"""The paths where distributions install QEMU's helper."""
HELPER_LIMIT_S = 10.0
"""The time limit of the helper. The netdev needs its answer, but only the client that adds the netdev waits."""


class BridgeBackend(TapBackend):
    """One bridge netdev; `info network` shows it as a tap."""

    def __init__(self, context: BackendContext, options: BridgeOptions) -> None:
        super().__init__(context, TapOptions(id=options.id, link=options.link))
        self._bridge = options.br or DEFAULT_BRIDGE
        self._helper = options.helper
        self._tap = -1
        """The tap that was made here, or that the helper passed, until `start` takes it."""

    def preparation(self) -> Coroutine[Any, Any, None] | None:
        """Make the tap, or wait for the helper if vnic may not make it."""
        if self._helper is None:
            try:
                self._tap, _, _ = open_tap(None, vnet_hdr=None, multi_queue=False)
                return None
            except NetError as error:
                if "not permitted" not in error.desc and "Permission denied" not in error.desc:
                    raise
            self._helper = next((path for path in HELPERS if os.access(path, os.X_OK)), HELPERS[0])
        return self._ask_helper(self._helper)

    async def _ask_helper(self, helper: str) -> None:
        self._tap = await run_helper(self.loop, helper, self._bridge)

    def start(self) -> None:
        fd, self._tap = self._tap, -1
        self._adopt([fd])
        if self._helper is None:
            add_to_bridge(self.ifname, self._bridge)
            self._info = f"ifname={self.ifname},br={self._bridge}"
        else:
            self._info = f"helper={self._helper},br={self._bridge}"


async def run_helper(loop: asyncio.AbstractEventLoop, helper: str, bridge: str) -> int:
    """Run the bridge helper and return the tap that it sends (net_bridge_run_helper of QEMU's net/tap.c)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with ours:
        ours.setblocking(False)
        with theirs:
            words = _helper_command(helper, bridge, theirs.fileno())
            try:
                child = Child(loop, words, pass_fds=(theirs.fileno(),))
            except OSError as error:
                raise NetError(f"could not launch bridge helper {helper}: {error.strerror}") from None
        fd: int | None = None
        try:
            async with asyncio.timeout(HELPER_LIMIT_S):
                await wait_readable(loop, ours)
                fd = _receive_fd(ours)
                status = await child.wait()
            if fd is None or status:
                raise NetError("bridge helper failed")
            os.set_blocking(fd, False)
            tap, fd = fd, None
            return tap
        except TimeoutError:
            raise NetError(f"bridge helper failed: it took more than {HELPER_LIMIT_S:g} s") from None
        finally:
            child.kill()
            if fd is not None:
                unblock.close(fd)


def _helper_command(helper: str, bridge: str, fd: int) -> list[str]:
    """A helper with blanks is a command with arguments; QEMU runs it through a shell, vnic splits it."""
    own = ["--use-vnet", f"--fd={fd}"]
    if " " not in helper and "\t" not in helper:
        return [helper, *own, f"--br={bridge}"]
    try:
        words = shlex.split(helper)
    except ValueError as error:
        raise NetError(f"could not launch bridge helper {helper}: {error}") from None
    return [*words, *own] if "--br=" in helper else [*words, *own, f"--br={bridge}"]


def _receive_fd(sock: socket.socket) -> int | None:
    size = array.array("i").itemsize
    try:
        _, ancillary, flags, _ = sock.recvmsg(1, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % size])
    if len(fds) == 1 and not flags & socket.MSG_CTRUNC:
        return fds[0]
    for fd in fds:
        unblock.close(fd)
    return None

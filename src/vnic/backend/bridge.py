"""bridge: a tap plugged into a Linux bridge of this host (QEMU's `-netdev bridge`).

With the right to do so vnic makes the tap itself; else QEMU's setuid helper does, which also hands out the permission
(/etc/qemu/bridge.conf) and passes the tap back over a socket.
"""

from __future__ import annotations

import array
import os
import shlex
import socket
import subprocess

from vnic.net.errors import NetError

from .base import BackendContext
from .options import BridgeOptions, TapOptions
from .tap import TapBackend
from .tap_device import add_to_bridge

DEFAULT_BRIDGE = "br0"
HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
"""Where distributions install QEMU's helper."""
HELPER_LIMIT_S = 3.0
"""How long the helper may take; there is no netdev without its answer, so this is waited for."""


class BridgeBackend(TapBackend):
    """One bridge netdev; `info network` shows it as the tap that it is."""

    def __init__(self, context: BackendContext, options: BridgeOptions) -> None:
        super().__init__(context, TapOptions(id=options.id, link=options.link))
        self._bridge = options.br or DEFAULT_BRIDGE
        self._helper = options.helper

    def start(self) -> None:
        if self._helper is None and self._start_natively():
            return
        helper = self._helper or next((path for path in HELPERS if os.access(path, os.X_OK)), HELPERS[0])
        self._adopt([run_helper(helper, self._bridge)])
        self._info = f"helper={helper},br={self._bridge}"

    def _start_natively(self) -> bool:
        """Make the tap here. False without the permission, where the helper may have it."""
        try:
            self._open(None, None)
        except NetError as error:
            if "not permitted" in error.desc or "Permission denied" in error.desc:
                return False
            raise
        add_to_bridge(self.ifname, self._bridge)
        self._info = f"ifname={self.ifname},br={self._bridge}"
        return True


def run_helper(helper: str, bridge: str) -> int:
    """Run the bridge helper; the tap that it sends (net_bridge_run_helper of QEMU's net/tap.c)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with ours:
        with theirs:
            words = _helper_command(helper, bridge, theirs.fileno())
            try:
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),))
            except OSError as error:
                raise NetError(f"could not launch bridge helper {helper}: {error.strerror}") from None
        ours.settimeout(HELPER_LIMIT_S)
        fd = _receive_fd(ours)
    try:
        status = process.wait(HELPER_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    if fd is None or status:
        if fd is not None:
            os.close(fd)
        raise NetError("bridge helper failed")
    os.set_blocking(fd, False)
    return fd


def _helper_command(helper: str, bridge: str, fd: int) -> list[str]:
    """A helper with blanks is a command with arguments of its own; QEMU runs it through a shell, vnic splits it."""
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
        os.close(fd)
    return None

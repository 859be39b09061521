"""Network namespaces of others: names for them, sockets in them, and their end.

`interface.backend` calls it. A child process enters the namespace and passes the sockets; this process never does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from vnic.backend.interface import enter_namespace
from vnic.children import Child, wait_readable
from vnic.descriptors import close_fds
from vnic.net.errors import NetError

NAMED: Final = "/run/netns"
"""Where `ip netns` keeps its names."""
LIMIT_S: Final = 10.0
"""The child gets this time; only the client that adds the netdev waits."""
_OF_PROCESS: Final = re.compile(r"/proc/(\d{1,10})/(?:task/\d{1,10}/)?ns/net")
_EVENT: Final = struct.Struct("iIII")
"""struct inotify_event: watch, mask, cookie, length of the name that follows."""
_IN_UNMOUNT, _IN_IGNORED = 0x2000, 0x8000
_FOLDER_GONE: Final = enter_namespace.IN_DELETE_SELF | _IN_UNMOUNT | _IN_IGNORED


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace as the option `netns` names it."""

    given: str
    path: str
    pid: int | None
    """The process whose namespace it is; it is gone when the process has ended."""

    @classmethod
    def parse(cls, text: str) -> Namespace:
        """A process id, a path, or a name of `ip netns`. NetError if it is none of these."""
        if text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31:
            return cls(text, f"/proc/{int(text)}/ns/net", int(text))
        if "\0" in text or text in ("", ".", "..") or len(os.fsencode(text)) > 4000:
            raise NetError(
                f"Parameter 'netns' expects a name of `ip netns`, a path or a process id: '{text[:80]}'"
            )
        if "/" in text:
            process = _OF_PROCESS.fullmatch(text)
            return cls(text, text, int(process[1]) if process and int(process[1]) < 1 << 31 else None)
        return cls(text, f"{NAMED}/{text}", None)

    def command(self, words: str) -> str:
        """An `ip` command for that namespace, for texts."""
        if self.path == f"{NAMED}/{self.given}":
            return f"ip -n {self.given} {words}"
        return f"nsenter --net={self.path} ip {words}"


class Opened(NamedTuple):
    """The sockets that were opened in a namespace."""

    packet: socket.socket
    route: socket.socket
    ending: int
    """A descriptor that becomes readable when the namespace may be gone; -1: that cannot be seen."""

    def close(self) -> None:
        self.packet.close()
        self.route.close()
        if self.ending >= 0:
            os.close(self.ending)


async def open_in(loop: asyncio.AbstractEventLoop, namespace: Namespace) -> Opened:
    """Open a packet socket and a netlink socket there. NetError says what is missing."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.setblocking(False)
        with theirs:
            pid = "" if namespace.pid is None else str(namespace.pid)
            folder = "" if pid else os.path.dirname(namespace.path) or "."
            command = [sys.executable, "-I", "-S", enter_namespace.__file__]
            words = [namespace.path, pid, folder, str(theirs.fileno())]
            try:
                child = Child(loop, [*command, *words], pass_fds=(theirs.fileno(),))
            except OSError as error:
                raise NetError(
                    f"network namespace '{namespace.given}': cannot start a process: {error.strerror}"
                ) from None
        try:
            async with asyncio.timeout(LIMIT_S):
                await wait_readable(loop, ours)
            return _received(ours, namespace)
        except TimeoutError:
            raise NetError(
                f"network namespace '{namespace.given}': {namespace.path} did not open within {LIMIT_S:g} s"
            ) from None
        finally:
            child.kill()


def _received(sock: socket.socket, namespace: Namespace) -> Opened:
    try:
        message, fds, _, _ = socket.recv_fds(sock, 100, 3, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        message, fds = b"", []
    if len(fds) >= 2:
        packet, route = (socket.socket(fileno=fd) for fd in fds[:2])
        for each in (packet, route):
            each.setblocking(False)  # Python takes a socket for a blocking one that it did not open itself
        return Opened(packet, route, fds[2] if len(fds) > 2 else -1)
    close_fds(fds)
    step, _, number = message.decode().partition(" ")
    code = int(number) if number else errno.EIO
    raise NetError(f"network namespace '{namespace.given}': {_complaint(step, code, namespace)}")


def _complaint(step: str, code: int, namespace: Namespace) -> str:
    reason = os.strerror(code)
    denied = code in (errno.EPERM, errno.EACCES)
    if step == "watch" and code == errno.ESRCH:
        return "there is no such process"
    if step == "enter":
        if denied:
            return f"CAP_SYS_ADMIN is needed to enter it ({reason})"
        return f"{namespace.path} is no network namespace" if code == errno.EINVAL else reason
    if step == "packet":
        return (
            f"CAP_NET_RAW is needed for a packet socket ({reason})" if denied else f"packet socket: {reason}"
        )
    if step == "open":
        need = "CAP_SYS_PTRACE is needed to open " if denied and namespace.pid is not None else ""
        return f"{need}{namespace.path}: {reason}"
    return f"{step or 'the process that enters it ended'}: {reason}" if step else "no process could enter it"


class Ending:
    """Waits for the end of a namespace: of its process, or of the name in its folder."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, namespace: Namespace, fd: int, gone: Callable[[], None]
    ) -> None:
        """`fd` is `Opened.ending`, and the Ending's from now on."""
        self._loop = loop
        self._name = os.fsencode(os.path.basename(namespace.path))
        self._of_process = namespace.pid is not None
        self._gone = gone
        self.fd = fd
        if fd >= 0:
            loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        if self._of_process or self._has_lost_name():
            self._gone()

    def _has_lost_name(self) -> bool:
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:
            return False
        at, lost = 0, False
        while at + _EVENT.size <= len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            lost |= bool(mask & _FOLDER_GONE) or name == self._name
            at += _EVENT.size + length
        return lost

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            with contextlib.suppress(OSError):
                os.close(fd)

"""Notifier: an eventfd for the kernel in the place of a VM's socket, where a VM has no eventfds.

User-Mode Linux passes socketpairs as kicks and calls. Packets do not pass through here, their notifications do.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

from vnic.descriptors import Kind, kind_of

_READ_BYTES = 512
_ONE = (1).to_bytes(8, "little")


class Relay:
    """From `source` to an eventfd of its own (a kick), or from that to `target` (a call)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, *, kick: bool) -> None:
        """`fd` is the VM's socket. Raises OSError."""
        self._loop = loop
        self._sock = socket.socket(fileno=os.dup(fd))
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._reads = fd = self._sock.fileno() if kick else self.eventfd
        loop.add_reader(fd, self._kicked if kick else self._called)

    def _kicked(self) -> None:
        """MSG_DONTWAIT, since the VM shares the open file and may have it block."""
        with suppress(OSError):
            if not self._sock.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                self._loop.remove_reader(self._reads)  # the VM has closed its end
                return
        with suppress(OSError):
            os.eventfd_write(self.eventfd, 1)

    def _called(self) -> None:
        with suppress(OSError):
            os.eventfd_read(self.eventfd)
        with suppress(OSError):  # a socket that is full: the VM has not looked at the last call yet
            self._sock.send(_ONE, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._loop.remove_reader(self._reads)
        self._sock.close()
        os.close(self.eventfd)


class Notifier:
    """A kick or call of one ring, as the kernel gets it: the VM's own eventfd, or one with a relay."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int | None, *, kick: bool) -> None:
        """`fd` None: there is none. ValueError: it can be neither, or there are no descriptors left."""
        self._relay: Relay | None = None
        self.fd = -1
        if fd is None:
            return
        kind = kind_of(fd)
        if kind is Kind.EVENTFD:
            self.fd = fd
        elif kind is Kind.SOCKET:
            try:
                self._relay = Relay(loop, fd, kick=kick)
            except OSError as error:
                raise ValueError(f"there are no descriptors left: {error.strerror}") from None
            self.fd = self._relay.eventfd
        else:
            raise ValueError(f"a notifier is {kind.value}, and the kernel wants an eventfd")

    def close(self) -> None:
        if self._relay is not None:
            self._relay.close()
            self._relay = None

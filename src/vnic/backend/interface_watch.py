"""Waiting for a network interface of this host to appear: the kernel tells of every change of one (rtnetlink(7))."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

_RTMGRP_LINK: Final = 1
_READS_PER_TURN: Final = 64


class InterfaceWatch:
    """Calls `changed()` for as long as it is open whenever an interface of this network namespace changed, and once
    at the beginning. What changed is for the caller to look at: several changes are told of at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """OSError where there is no such socket."""
        self._loop = loop
        self._changed = changed
        self._sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        try:
            self._sock.bind((0, _RTMGRP_LINK))
        except OSError:
            self._sock.close()
            raise
        loop.add_reader(self._sock, self._readable)
        self._first = loop.call_soon(changed)

    def _readable(self) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                self._sock.recv(1)  # the rest of the message is dropped
            except BlockingIOError:
                break
            except OSError:
                break  # ENOBUFS: more changes than it could keep, which is all the same here
        self._changed()

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._first.cancel()
            self._loop.remove_reader(self._sock)
            self._sock.close()


def interface_exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True

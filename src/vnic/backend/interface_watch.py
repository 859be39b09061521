"""Watches this host's network interfaces: the kernel reports every change (rtnetlink(7)).

`tap` and link-follow subscribe. One socket serves a whole machine; it is open while anything subscribes. There is no
polling.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

_RTMGRP_LINK: Final = 1
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_IFLA_IFNAME: Final = 3
_READS_PER_TURN: Final = 64
_MESSAGE_BYTES: Final = 1 << 16
_MESSAGE_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_LINK_BYTES: Final = 16
"""struct ifinfomsg."""
_ATTRIBUTE = struct.Struct("=HH")
"""struct rtattr: length, type."""
_SIOCGIFFLAGS: Final = 0x8913
_IFF_RUNNING: Final = 0x40
_IFNAMSIZ: Final = 16
_IFREQ_FLAGS = struct.Struct("16sH22x")
"""struct ifreq with ifr_flags."""


class InterfaceWatch:
    """Notifies subscribers when the interface of their name changes, appears or disappears."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._subscribers: dict[str, list[Callable[[], None]]] = {}
        self._sock: socket.socket | None = None

    def subscribe(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed()` at each change of the interface `name` of this network namespace, and once soon.

        The callee reads the new state: one call may stand for several changes. The returned function ends the
        subscription. OSError if the socket cannot be made.
        """
        if self._sock is None:
            self._sock = self._open()
        self._subscribers.setdefault(name, []).append(changed)
        first = self._loop.call_soon(changed)

        def unsubscribe() -> None:
            first.cancel()
            self._subscribers[name].remove(changed)
            if not self._subscribers[name]:
                del self._subscribers[name]
            if not self._subscribers:
                self._close()

        return unsubscribe

    def _open(self) -> socket.socket:
        sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        try:
            sock.bind((0, _RTMGRP_LINK))
        except OSError:
            sock.close()
            raise
        self._loop.add_reader(sock, self._readable, sock)
        return sock

    def _close(self) -> None:
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _readable(self, sock: socket.socket) -> None:
        names: set[str] = set()
        for _ in range(_READS_PER_TURN):
            try:
                names |= changed_interfaces(sock.recv(_MESSAGE_BYTES))
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: the socket has lost changes
                names = set(self._subscribers)
                break
        for name in names:
            for changed in list(self._subscribers.get(name, ())):
                changed()


def changed_interfaces(data: bytes) -> set[str]:
    """The names in the link messages of a datagram from the kernel; a malformed rest is ignored."""
    names = set()
    at = 0
    while at + _MESSAGE_HEADER.size <= len(data):
        length, kind, *_ = _MESSAGE_HEADER.unpack_from(data, at)
        if length < _MESSAGE_HEADER.size or at + length > len(data):
            break
        if kind in (_RTM_NEWLINK, _RTM_DELLINK):
            names |= _names(data[at + _MESSAGE_HEADER.size + _LINK_BYTES : at + length])
        at += length + 3 & ~3
    return names


def _names(attributes: bytes) -> set[str]:
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if length < _ATTRIBUTE.size:
            break
        if kind == _IFLA_IFNAME:
            return {os.fsdecode(attributes[at + _ATTRIBUTE.size : at + length].rstrip(b"\0"))}
        at += length + 3 & ~3
    return set()


def interface_operates(name: str) -> bool | None:
    """Whether the interface is operational (RFC 2863: up, or unknown as with drivers that do not tell): it is up, and
    so is what is below it. None if this network namespace has no interface of that name."""
    encoded = os.fsencode(name)
    if not 0 < len(encoded) < _IFNAMSIZ:
        return None
    request = _IFREQ_FLAGS.pack(encoded, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            _, flags = _IFREQ_FLAGS.unpack(fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        except OSError:
            return None
    return bool(flags & _IFF_RUNNING)


def interface_exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True

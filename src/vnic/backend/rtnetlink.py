"""The kernel's messages about network interfaces (rtnetlink(7)): bytes in, `LinkState` out, and requests.

`interface_watch` reads and sends them; the netdevs that follow an interface get its state.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

RTMGRP_LINK: Final = 1
_NLMSG_ERROR: Final = 2
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_IFLA_IFNAME: Final = 3
_IFLA_OPERSTATE: Final = 16

IFNAME_BYTES: Final = 15
"""The longest name of an interface."""
IFF_UP: Final = 0x1
IFF_LOWER_UP: Final = 0x10000
ARPHRD_ETHER: Final = 1
_OPER_WORDS: Final = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
"""IF_OPER_… of linux/if.h, with the words of `ip link` (RFC 2863)."""
_WAITING: Final = ("testing", "dormant")
"""The states in which an interface with carrier passes no packets."""

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, hardware type, index, flags, change mask."""
_ATTRIBUTE = struct.Struct("=HH")
"""struct rtattr: length, type."""
_ERROR = struct.Struct("=i")
assert (_HEADER.size, _LINK.size, _ATTRIBUTE.size) == (16, 16, 4)


@dataclass(frozen=True, slots=True)
class LinkState:
    """An interface as one message describes it."""

    name: str
    index: int
    hardware: int
    """ARPHRD_…: 1 is Ethernet."""
    flags: int
    """IFF_…."""
    operstate: str

    @property
    def is_set_up(self) -> bool:
        """The administrator's setting."""
        return bool(self.flags & IFF_UP)

    @property
    def trouble(self) -> str:
        """Why it passes no packets, as a word of `ip link`; "" if it does. The flags are newer than the operstate,
        which the kernel corrects some time after the carrier has changed."""
        if not self.is_set_up:
            return "down"
        if not self.flags & IFF_LOWER_UP:
            return self.operstate if self.operstate in ("notpresent", *_WAITING) else "lowerlayerdown"
        return self.operstate if self.operstate in _WAITING else ""


class LinkMessage(NamedTuple):
    """An interface was created, has changed or was described on request; or it was deleted."""

    sequence: int
    """That of the request, or anything."""
    state: LinkState
    deleted: bool


class Answer(NamedTuple):
    """The end of a request: 0, or an errno."""

    sequence: int
    error: int


def parse(data: bytes) -> Iterator[LinkMessage | Answer]:
    """The messages of a datagram from the kernel; a malformed rest is ignored, and so are those of bridges about their
    ports (AF_BRIDGE)."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        body = data[at + _HEADER.size : at + length]
        if kind == _NLMSG_ERROR and len(body) >= _ERROR.size:
            yield Answer(sequence, -_ERROR.unpack_from(body)[0])
        elif kind in (_RTM_NEWLINK, _RTM_DELLINK) and len(body) >= _LINK.size:
            state = _state(body)
            if state is not None:
                yield LinkMessage(sequence, state, kind == _RTM_DELLINK)
        at += length + 3 & ~3


def _state(body: bytes) -> LinkState | None:
    family, hardware, index, flags, _ = _LINK.unpack_from(body)
    name, operstate = "", 0
    at = _LINK.size
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        value = body[at + _ATTRIBUTE.size : at + length]
        if kind == _IFLA_IFNAME:
            name = os.fsdecode(value.rstrip(b"\0"))
        elif kind == _IFLA_OPERSTATE and value:
            operstate = value[0]
        at += length + 3 & ~3
    if family or not name:
        return None
    word = _OPER_WORDS[operstate] if operstate < len(_OPER_WORDS) else "unknown"
    return LinkState(name, index, hardware, flags, word)


def is_interface_name(text: str) -> bool:
    """Whether the kernel would take it for an interface (dev_valid_name)."""
    name = os.fsencode(text)
    return (
        0 < len(name) <= IFNAME_BYTES and text not in (".", "..") and not set(name) & set(b"/:\0 \t\n\v\f\r")
    )


def get_link(sequence: int, name: str) -> bytes:
    """Ask for an interface. The answer is a LinkMessage, or an Answer with an error."""
    value = os.fsencode(name) + b"\0"
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), _IFLA_IFNAME) + value
    return _request(_RTM_GETLINK, 0, sequence, _LINK.pack(0, 0, 0, 0, 0) + attribute)


def set_link(sequence: int, index: int, up: bool | None) -> bytes:
    """Set an interface up or down; None changes nothing, and only checks the right to do so. An Answer follows."""
    change = 0 if up is None else IFF_UP
    return _request(_RTM_NEWLINK, _NLM_F_ACK, sequence, _LINK.pack(0, 0, index, IFF_UP if up else 0, change))


def _request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, sequence, 0) + body

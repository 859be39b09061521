"""The QAPI forms of a chardev (qapi/char.json). The commands chardev-add and query-chardev use them."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from vnic.chardev.options import ChardevAddress, NullOptions, SocketMembers, SocketOptions, StdioOptions


class SocketChardev(SocketMembers, frozen=True, kw_only=True):
    """ChardevSocket, with the defaults of QAPI."""

    addr: Annotated[ChardevAddress, msgspec.Meta(extra={"qapi": "wrapped"})]
    """SocketAddressLegacy: the members of each kind are inside a member `data`."""
    server: bool = True
    wait: bool = False
    nodelay: bool = False

    def options(self, label: str) -> SocketOptions:
        return self.socket(label, self.addr)


class StdioChardev(msgspec.Struct):
    """ChardevStdio."""

    signal: bool = True

    def options(self, label: str) -> StdioOptions:
        return StdioOptions(id=label, signal=self.signal)


class NullChardev(msgspec.Struct):
    """ChardevCommon; none of its members is supported."""

    def options(self, label: str) -> NullOptions:
        return NullOptions(id=label)


QapiChardev: TypeAlias = SocketChardev | StdioChardev | NullChardev

CHARDEVS: dict[str, type[msgspec.Struct]] = {
    "socket": SocketChardev,
    "stdio": StdioChardev,
    "null": NullChardev,
}
"""The Struct for each kind of chardev-add."""


class ChardevInfo(msgspec.Struct, rename="kebab", frozen=True):
    """One entry of query-chardev."""

    label: str
    filename: str
    frontend_open: bool

"""The QAPI forms of a chardev (qapi/char.json). The commands chardev-add and query-chardev use them."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from vnic.chardev.options import ChardevAddress, NullOptions, SocketOptions, StdioOptions


class SocketChardev(msgspec.Struct, rename="kebab", kw_only=True):
    """ChardevSocket. `wait` is accepted and has no effect: vnic never waits for a peer."""

    addr: Annotated[ChardevAddress, msgspec.Meta(extra={"qapi": "wrapped"})]
    """SocketAddressLegacy: the members of each kind are inside a member `data`."""
    server: bool = True
    wait: bool = False
    nodelay: bool = False
    telnet: bool = False
    reconnect_ms: int = 0
    mode: str | None = None

    def options(self, label: str) -> SocketOptions:
        return SocketOptions(
            id=label,
            addr=self.addr,
            server=self.server,
            wait=self.wait,
            nodelay=self.nodelay,
            telnet=self.telnet,
            reconnect_ms=self.reconnect_ms,
            mode=self.mode,
        )


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

"""The command line's form of `-chardev`, in which all members of a kind stand side by side.

The monitor's schema layer fills these Structs in, and `-chardev help` lists their members. `options()` returns the form
that the table takes.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from vnic.chardev.options import ChardevAddress, NullOptions, SocketMembers, SocketOptions, StdioOptions
from vnic.net.errors import NetError
from vnic.sockets.address import FdAddress, InetAddress, UnixAddress


class SocketFlat(SocketMembers, tag_field="backend", tag="socket", frozen=True, kw_only=True):
    """`-chardev socket`."""

    id: str
    path: str | None = None
    abstract: bool = False
    tight: bool = True
    host: str | None = None
    port: str | None = None
    to: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None
    fd: str | None = None

    def options(self) -> SocketOptions:
        """Raises NetError."""
        return self.socket(self.id, self._address())

    def _address(self) -> ChardevAddress:
        given = sum(value is not None for value in (self.path, self.host, self.fd))
        if given > 1:
            raise NetError("None or one of 'path', 'fd' or 'host' option required.")
        if self.path is not None:
            return UnixAddress(path=self.path, abstract=self.abstract, tight=self.tight)
        if self.fd is not None:
            return FdAddress(text=self.fd)
        if not given and not self.port:
            raise NetError("chardev: socket: 'path', 'host' or 'fd' is needed")
        if not self.port:
            raise NetError("chardev: socket: no port given")
        return InetAddress(host=self.host or "", port=self.port, to=self.to, ipv4=self.ipv4, ipv6=self.ipv6)


class StdioFlat(msgspec.Struct, tag_field="backend", tag="stdio", kw_only=True):
    """`-chardev stdio`."""

    id: str
    signal: bool = True

    def options(self) -> StdioOptions:
        return StdioOptions(id=self.id, signal=self.signal)


class NullFlat(msgspec.Struct, tag_field="backend", tag="null", kw_only=True):
    """`-chardev null`."""

    id: str

    def options(self) -> NullOptions:
        return NullOptions(id=self.id)


FlatChardev: TypeAlias = SocketFlat | StdioFlat | NullFlat

FLAT_CHARDEVS: dict[str, type[msgspec.Struct]] = {
    "socket": SocketFlat,
    "stdio": StdioFlat,
    "null": NullFlat,
}
"""The Struct for each kind of `-chardev`."""

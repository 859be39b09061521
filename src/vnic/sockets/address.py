"""QAPI's SocketAddress (qapi/sockets.json) as Structs, and the text forms of an address.

Netdevs, chardevs, monitors and the events that carry an address use them; `resolve` turns them into socket addresses.
"""

from __future__ import annotations

import os
import socket
from typing import Annotated, Any, TypeAlias

import msgspec

from vnic.sockets.bind import SUN_PATH_BYTES


class SocketAddressBase(
    msgspec.Struct, tag_field="type", rename="kebab", frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """The member that all kinds of SocketAddress share: `type`."""


class InetAddress(SocketAddressBase, tag="inet", frozen=True, kw_only=True):
    """A TCP or UDP address. `to` ends a range of ports to try when listening."""

    host: str
    port: str
    numeric: bool = False
    to: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)] | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None
    keep_alive: bool = False


class UnixAddress(SocketAddressBase, tag="unix", frozen=True, kw_only=True):
    """A path, or with `abstract` a name; `tight=False` pads an abstract name with zeros."""

    path: str
    abstract: bool = False
    tight: bool = True


class VsockAddress(SocketAddressBase, tag="vsock", frozen=True, kw_only=True):
    """A vsock address. QEMU's schema has it, and its netdevs refuse it."""

    cid: str
    port: str


class FdAddress(SocketAddressBase, tag="fd", frozen=True, kw_only=True):
    """A passed socket: its number, or the name that QMP's getfd gave it."""

    text: str = msgspec.field(name="str")


SocketAddress: TypeAlias = InetAddress | UnixAddress | VsockAddress | FdAddress


def describe(address: SocketAddress) -> str:
    """The address for a log line or an error: `unix:PATH`, `tcp:HOST:PORT`."""
    match address:
        case InetAddress():
            host = f"[{address.host}]" if ":" in address.host else address.host
            return f"tcp:{host}:{address.port}"
        case UnixAddress():
            return f"unix:{'@' if address.abstract else ''}{address.path}"
        case FdAddress():
            return f"fd:{address.text}"
        case VsockAddress():
            return f"vsock:{address.cid}:{address.port}"


def address_of(family: int, sockaddr: Any) -> InetAddress | UnixAddress:
    """The address of a socket's name (socket_sockaddr_to_address)."""
    return msgspec.convert(qmp_address(family, sockaddr), InetAddress | UnixAddress)


def qmp_address(family: int, sockaddr: Any) -> dict[str, object]:
    """QAPI's SocketAddress of a socket's name, with its members in QEMU's order."""
    if family == socket.AF_UNIX:
        if isinstance(sockaddr, bytes) and sockaddr[:1] == b"\0":
            name = sockaddr[1:].partition(b"\0")[0]
            tight = len(sockaddr) < SUN_PATH_BYTES
            return {"abstract": True, "path": os.fsdecode(name), "type": "unix", "tight": tight}
        return {"path": os.fsdecode(sockaddr), "type": "unix"}
    version = "ipv6" if family == socket.AF_INET6 else "ipv4"
    return {"port": str(sockaddr[1]), version: True, "host": sockaddr[0].partition("%")[0], "type": "inet"}


def socket_uri(family: int, sockaddr: Any) -> str:
    """The text of `info network` (socket_uri): `tcp:HOST:PORT`, `unix:PATH`."""
    address = qmp_address(family, sockaddr)
    if family == socket.AF_UNIX:
        return f"unix:{address['path']}"
    return f"tcp:{address['host']}:{address['port']}"

"""SocketAddress at work: names to socket addresses, sockets to what QMP and `info network` say of them.

The rules and texts are those of QEMU's util/qemu-sockets.c.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vnic.backend.options import (
    FdAddress,
    InetAddress,
    SocketAddress,
    UnixAddress,
)
from vnic.net.errors import NetError
from vnic.protocol.frames import close_fds
from vnic.sockets.lookup import LookupFailed, look_up

UNIX_PATH_MAX = 108
"""sizeof(sockaddr_un.sun_path)."""


class AddressError(Exception):
    """An address that cannot be used; str() is QEMU's text where it has one."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """One address that a socket can be bound or connected to."""

    family: int
    sockaddr: Any


Found = Callable[[list[Resolved]], None]
Failed = Callable[[str], None]


def describe(address: SocketAddress) -> str:
    """The address for a person: `unix:PATH`, `tcp:HOST:PORT`."""
    if isinstance(address, InetAddress):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"tcp:{host}:{address.port}"
    if isinstance(address, UnixAddress):
        return f"unix:{'@' if address.abstract else ''}{address.path}"
    if isinstance(address, FdAddress):
        return f"fd:{address.text}"
    return f"vsock:{address.cid}:{address.port}"


# -- resolving --------------------------------------------------------------------------------------------------------


def unix_sockaddr(address: UnixAddress) -> str | bytes:
    """The sockaddr of a path or an abstract name (unix_listen_saddr)."""
    try:
        path = os.fsencode(address.path)
    except UnicodeEncodeError:
        raise AddressError("UNIX socket path is no text that a file name could be") from None
    if not path:
        raise AddressError("UNIX socket path is empty")
    if b"\0" in path:
        raise AddressError("UNIX socket path holds a zero byte")
    limit = UNIX_PATH_MAX - 1 if address.abstract else UNIX_PATH_MAX
    if len(path) > limit:
        raise AddressError(f"UNIX socket path '{address.path}' is too long")
    if not address.abstract:
        return path
    name = b"\0" + path
    return name if address.tight else name.ljust(UNIX_PATH_MAX, b"\0")


def inet_family(address: InetAddress) -> int:
    """inet_ai_family_from_address."""
    ipv4, ipv6 = address.ipv4, address.ipv6
    if ipv4 is False and ipv6 is False:
        raise AddressError("Cannot disable IPv4 and IPv6 at same time")
    if ipv4 and ipv6:
        return socket.AF_UNSPEC
    if ipv6 or ipv4 is False:
        return socket.AF_INET6
    if ipv4 or ipv6 is False:
        return socket.AF_INET
    return socket.AF_UNSPEC


def _is_numeric(host: str) -> bool:
    if not host:
        return True
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def lookup(
    address: InetAddress, kind: socket.SocketKind, *, passive: bool, numeric: bool = False
) -> list[Resolved]:
    """getaddrinfo with QEMU's flags and error text. A host that is a name may take its time: see `resolve`."""
    flags = socket.AI_PASSIVE if passive else 0
    if numeric or address.numeric:
        flags |= socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    if address.port.isdecimal() and int(address.port) > 0xFFFF:
        raise AddressError(f"port {address.port} is not from 0 to 65535")
    try:
        found = socket.getaddrinfo(
            address.host or None, address.port or "0", inet_family(address), kind, flags=flags
        )
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise AddressError(f"address resolution failed for {address.host}:{address.port}: {reason}") from None
    return [Resolved(int(family), sockaddr) for family, _, _, _, sockaddr in found]


def resolve_at_once(address: InetAddress | UnixAddress, *, passive: bool) -> list[Resolved] | None:
    """What a stream address stands for; None for a host name, whose lookup may take its time. Raises AddressError."""
    if isinstance(address, UnixAddress):
        return [Resolved(socket.AF_UNIX, unix_sockaddr(address))]
    return lookup(address, socket.SOCK_STREAM, passive=passive) if _is_numeric(address.host) else None


def resolve(
    loop: asyncio.AbstractEventLoop,
    address: InetAddress | UnixAddress,
    *,
    passive: bool,
    found: Found,
    failed: Failed,
) -> Callable[[], None]:
    """Resolve a stream address, then call `found` or `failed`: at once, or for a host name when its lookup ends.

    The returned function calls it off.
    """
    try:
        targets = resolve_at_once(address, passive=passive)
    except AddressError as error:
        failed(str(error))
        return _nothing
    if targets is not None:
        found(targets)
        return _nothing
    assert isinstance(address, InetAddress)
    future = look_up(loop, functools.partial(lookup, address, socket.SOCK_STREAM, passive=passive))

    def done(future: asyncio.Future[list[Resolved]]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            found(future.result())
        elif isinstance(error, LookupFailed):
            failed(f"address resolution failed for {address.host}:{address.port}: {error}")
        else:
            failed(str(error))

    future.add_done_callback(done)

    def cancel() -> None:
        future.cancel()

    return cancel


def _nothing() -> None:
    return


# -- what a socket is called ------------------------------------------------------------------------------------------


def qmp_address(family: int, sockaddr: Any) -> dict[str, object]:
    """QAPI's SocketAddress of a socket's name, its members in QEMU's order (socket_sockaddr_to_address)."""
    if family == socket.AF_UNIX:
        if isinstance(sockaddr, bytes) and sockaddr[:1] == b"\0":
            name = sockaddr[1:].partition(b"\0")[0]
            tight = len(sockaddr) < UNIX_PATH_MAX
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


def stream_socket_from_fd(fd: int) -> socket.socket:
    """Take over an inherited descriptor; it is closed where it is no stream socket."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        close_fds([fd])
        raise NetError(f"File descriptor '{fd}' is not a socket") from None
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise NetError(f"File descriptor '{fd}' is not a stream socket")
    sock.setblocking(False)
    return sock

"""Turns a SocketAddress into the addresses that a socket can be bound or connected to, and looks up host names.

Listeners and connectors call `resolve`, which waits beside the loop, or `resolve_at_once`. The rules and texts are
those of QEMU's util/qemu-sockets.c.
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

from vnic.net.errors import NetError
from vnic.sockets.address import InetAddress, UnixAddress
from vnic.sockets.bind import SUN_PATH_BYTES
from vnic.sockets.lookup import LookupFailed, look_up


class AddressError(NetError):
    """An address that cannot be used; `desc` is QEMU's text if QEMU has one."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """One address that a socket can be bound or connected to."""

    family: int
    sockaddr: Any


Found = Callable[[list[Resolved]], None]
Failed = Callable[[str], None]


def unix_sockaddr(address: UnixAddress) -> str | bytes:
    """The sockaddr of a path or an abstract name (unix_listen_saddr). It has the one rule for the form of a path.

    A path has at most 107 bytes. QEMU takes 108, and programs that need a NUL at the end cannot open such a path.
    """
    try:
        path = os.fsencode(address.path)
    except UnicodeEncodeError:
        raise AddressError("UNIX socket path is no text that a file name could be") from None
    if not path:
        raise AddressError("UNIX socket path is empty")
    if b"\0" in path:
        raise AddressError("UNIX socket path holds a NUL byte")
    if len(path) >= SUN_PATH_BYTES:
        raise AddressError(
            f"UNIX socket path '{address.path}' is too long", hint=f"At most {SUN_PATH_BYTES - 1} bytes."
        )
    if not address.abstract:
        return path
    name = b"\0" + path
    return name if address.tight else name.ljust(SUN_PATH_BYTES, b"\0")


def check_path(path: str) -> None:
    """Refuse a path that no UNIX socket can have, before anything is opened. Raises AddressError."""
    unix_sockaddr(UnixAddress(path=path))


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
    """Call getaddrinfo with QEMU's flags and error text. It may block for a host name: see `resolve`."""
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


def resolve_waiting(address: InetAddress | UnixAddress, *, passive: bool) -> list[Resolved]:
    """The addresses of a stream address. It blocks while the name server answers. Raises AddressError."""
    if isinstance(address, UnixAddress):
        return [Resolved(socket.AF_UNIX, unix_sockaddr(address))]
    return lookup(address, socket.SOCK_STREAM, passive=passive)


def resolve_at_once(address: InetAddress | UnixAddress, *, passive: bool) -> list[Resolved] | None:
    """The addresses of a stream address; None for a host name, whose lookup may block."""
    if isinstance(address, InetAddress) and not _is_numeric(address.host):
        return None
    return resolve_waiting(address, passive=passive)


def resolve(
    loop: asyncio.AbstractEventLoop,
    address: InetAddress | UnixAddress,
    *,
    passive: bool,
    found: Found,
    failed: Failed,
) -> Callable[[], None]:
    """Resolve a stream address, then call `found` or `failed`: at once, or for a host name when the lookup ends.

    The returned function cancels it.
    """
    try:
        targets = resolve_at_once(address, passive=passive)
    except AddressError as error:
        failed(error.desc)
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


async def resolve_all(
    loop: asyncio.AbstractEventLoop, address: InetAddress | UnixAddress, *, passive: bool
) -> list[Resolved]:
    """The same as a coroutine. Raises AddressError."""
    future: asyncio.Future[list[Resolved]] = loop.create_future()
    cancel = resolve(
        loop,
        address,
        passive=passive,
        found=future.set_result,
        failed=lambda text: future.set_exception(AddressError(text)),
    )
    try:
        return await future
    finally:
        cancel()


def _nothing() -> None:
    return

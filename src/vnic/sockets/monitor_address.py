"""Where a monitor listens or connects: the chardevs `socket` and `stdio`, and the sockets they stand for.

The Structs are what `-chardev` (and `-qmp unix:…`) gives; `server.py` opens what they say. Errors are NetErrors
with QEMU's texts (util/qemu-sockets.c).
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from typing import Any, TypeAlias

import msgspec

from vnic.net.errors import NetError
from vnic.sockets.bind import BoundPath, bind_path, socket_mode
from vnic.sockets.lock import PathError
from vnic.sockets.lookup import LookupFailed, look_up

SUN_PATH_MAX = 108
BACKLOG = 16


class SocketOptions(msgspec.Struct, rename="kebab", tag_field="backend", tag="socket", kw_only=True):
    """`-chardev socket`, as far as a monitor understands it. `wait` is taken, but nobody is waited for."""

    id: str
    path: str | None = None
    abstract: bool = False
    tight: bool = True
    host: str | None = None
    port: str | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None
    fd: str | None = None
    server: bool = False
    wait: bool = True
    nodelay: bool = True
    telnet: bool = False
    reconnect_ms: int = 0
    mode: str | None = None
    """Of the socket's path, in octal; vnic's own."""

    def check(self) -> None:
        """Refuse what contradicts itself."""
        given = sum(value is not None for value in (self.path, self.host, self.fd))
        if given > 1:
            raise NetError("None or one of 'path', 'fd' or 'host' option required.")
        if not given and not self.port:
            raise NetError("chardev: socket: 'path', 'host' or 'fd' is needed")
        if self.fd is not None and self.telnet:
            raise NetError("'telnet' option is incompatible with 'fd' address type")
        if self.path is not None:
            unix_address(self)
        if self.host is not None and not self.port:
            raise NetError("chardev: socket: no port given")
        socket_mode(self.mode)
        if self.mode is not None and (self.path is None or self.abstract or not self.server):
            raise NetError("chardev: socket: 'mode' is that of a path with server=on")
        if self.reconnect_ms < 0:
            raise NetError("Parameter 'reconnect-ms' expects a non-negative integer")
        if self.reconnect_ms and self.server:
            raise NetError("'reconnect-ms' option is incompatible with socket in server listen mode")

    @property
    def filename(self) -> str:
        """Its name in the log and in query-chardev (chardev/char-socket.c: qemu_chr_socket_address)."""
        if self.path is not None:
            where = f"unix:{self.path}"
            if self.abstract:
                where += ",abstract=on" + (",tight=on" if self.tight else "")
        elif self.fd is not None:
            where = f"fd:{self.fd}"
        else:
            where = f"{'telnet' if self.telnet else 'tcp'}:{self.host or ''}:{self.port}"
        return where + (",server=on" if self.server else "")


class StdioOptions(msgspec.Struct, tag_field="backend", tag="stdio", kw_only=True):
    """`-chardev stdio`. `signal` is taken: Ctrl-C ends the program either way."""

    id: str
    signal: bool = True


MonitorChardev = SocketOptions | StdioOptions


class Listener:
    """A listening socket; a UNIX one leaves no file behind."""

    def __init__(self, options: SocketOptions, addresses: Addresses | None = None) -> None:
        """`addresses`: of `look_up_addresses`; without them the name server is waited for."""
        self._path: BoundPath | None = None
        if options.fd is not None:
            self.socket = _listening_fd(options.fd)
        elif options.path is not None:
            self.socket = self._listen_unix(options)
        else:
            self.socket = _listen_inet(addresses or _resolve(options))
        self.socket.setblocking(False)

    def _listen_unix(self, options: SocketOptions) -> socket.socket:
        address = unix_address(options)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if options.abstract:
                listening.bind(address)
            else:
                self._path = bind_path(listening, address, mode=socket_mode(options.mode))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            raise NetError(f"Failed to bind socket to {options.path}: {error.strerror}") from None
        except PathError as error:
            listening.close()
            raise NetError(f"Failed to bind socket to {options.path}: {error}") from None
        return listening

    def close(self) -> None:
        self.socket.close()
        if self._path is not None:
            self._path.remove()


def unix_address(options: SocketOptions) -> str:
    """The address of a UNIX socket as the kernel wants it: a path, or NUL and a name (unix(7))."""
    path = options.path or ""
    if not path:
        raise NetError("UNIX socket path is empty")
    address = "\0" + path if options.abstract else path
    if options.abstract and not options.tight:
        address = address.ljust(SUN_PATH_MAX, "\0")
    if len(os.fsencode(address)) > SUN_PATH_MAX - (0 if options.abstract else 1):
        raise NetError(f"UNIX socket path '{path}' is too long")
    return address


Addresses: TypeAlias = list[tuple[socket.AddressFamily, Any]]
"""The addresses of a host and port, in the order to try them."""


async def look_up_addresses(loop: asyncio.AbstractEventLoop, options: SocketOptions) -> Addresses:
    """What `host` and `port` stand for, asked of the name server beside the loop. NetError where it has no answer."""
    try:
        return await look_up(loop, functools.partial(_resolve, options))
    except LookupFailed as error:
        raise NetError(f"address resolution failed for {options.host}:{options.port}: {error}") from None


def _resolve(options: SocketOptions) -> Addresses:
    """The same, waiting for the name server."""
    family = socket.AF_UNSPEC
    if options.ipv4 and not options.ipv6:
        family = socket.AF_INET
    elif options.ipv6 and not options.ipv4:
        family = socket.AF_INET6
    flags = socket.AI_PASSIVE if options.server else 0
    host, port = options.host or None, options.port
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        raise NetError(f"address resolution failed for {host}:{port}: {error.strerror}") from None
    return [(each[0], each[4]) for each in found]


def _listen_inet(addresses: Addresses) -> socket.socket:
    problem = "Address family not supported by protocol"
    for family, address in addresses:
        try:
            listening = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            problem = error.strerror or problem
            continue
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            problem = error.strerror or problem
            continue
        return listening
    raise NetError(f"Failed to find an available port: {problem}")


def _listening_fd(text: str) -> socket.socket:
    listening = socket_of_fd(text)
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise NetError(f"Failed to listen on fd {text}: {error.strerror}") from None
    return listening


def socket_of_fd(text: str) -> socket.socket:
    """A socket that was passed by number."""
    try:
        return socket.socket(fileno=os.dup(int(text)))
    except (ValueError, OSError):
        raise NetError(f"File descriptor '{text}' is not a socket") from None


def far_address(options: SocketOptions, addresses: Addresses | None) -> tuple[socket.AddressFamily, Any]:
    """Where `server=off` connects to; of several addresses, the first."""
    if options.path is not None:
        return socket.AF_UNIX, unix_address(options)
    return (addresses or _resolve(options))[0]


def start_connecting(family: socket.AddressFamily, address: Any) -> socket.socket:
    """A socket on its way: when it is writable, SO_ERROR tells how it went. OSError if it fails at once."""
    connecting = socket.socket(family, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        connecting.connect(address)
    except BlockingIOError:
        pass
    except OSError:
        connecting.close()
        raise
    return connecting

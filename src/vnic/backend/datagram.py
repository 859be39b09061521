"""Datagram sockets of netdevs: one frame per datagram. dgram and the datagram forms of socket use it.

`DatagramPort` moves the frames; the functions below make the sockets, with the texts of QEMU's net/dgram.c.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from vnic.backend.base import READ_BUDGET_FRAMES
from vnic.backend.framing import MAX_FRAME_BYTES
from vnic.descriptors import close_fds
from vnic.net.client import NetClient
from vnic.net.errors import NetError
from vnic.net.lending import Inject, Lender, Lent, LentKind
from vnic.net.queue import Frame
from vnic.record import U16, Record, require
from vnic.sockets.bind import SUN_PATH_BYTES
from vnic.sockets.connect import refuse_descriptors
from vnic.sockets.lookup import LookupFailed, look_up

RETRY_S = 0.0005
RETRY_MAX_S = 0.016
"""The delay for a unix peer with a full queue, doubled while it stays full. The kernel reports room on connected
sockets only; an unconnected one always looks writable, so that QEMU busy-loops here."""

Inet4 = tuple[str, int]


class DatagramPortRecord(Record, frozen=True):
    """The state of a DatagramPort apart from its socket."""

    host: str | None
    """With `inet_port` or `path` the destination; without all three the socket is connected."""
    inet_port: U16 | None
    path: bytes | None
    """Of a unix socket; an abstract name begins with NUL."""
    paused: bool
    sender_waits: bool

    def check_fields(self) -> None:
        whole = (self.host is None) is (self.inet_port is None)
        require(whole, "inet_port", "does not go with the host")
        require(self.host is None or self.path is None, "path", "is there beside a host")
        try:
            socket.inet_aton(self.host or "0.0.0.0")
        except OSError:
            require(False, "host", f"is {self.host!a}, no IPv4 address")
        require(self.path is None or 0 < len(self.path) <= SUN_PATH_BYTES, "path", "has no valid length")

    @property
    def target(self) -> Inet4 | bytes | None:
        return self.path if self.host is None or self.inet_port is None else (self.host, self.inet_port)


class DatagramPort(Lender):
    """The frames of one client over one datagram socket. `target` is their destination; None: the socket is
    connected."""

    kind = LentKind.DGRAM

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, client: NetClient, target: Any = None
    ) -> None:
        sock.setblocking(False)
        self.fd = sock.fileno()
        self._loop = loop
        self._sock = sock
        refuse_descriptors(sock)
        self._client = client
        self._target = target
        self._paused = False
        self._retry: asyncio.TimerHandle | None = None
        self._retry_s = RETRY_S
        self._waits_writable = False
        self._open = True
        self._inject: Inject | None = None
        """While the socket is lent: what sends a frame there."""
        loop.add_reader(sock, self._readable)

    # -- state apart from the socket ----------------------------------------------------------------------------

    def save(self) -> DatagramPortRecord:
        inet = self._target if isinstance(self._target, tuple) else (None, None)
        is_path = isinstance(self._target, str | bytes)
        return DatagramPortRecord(
            host=inet[0],
            inet_port=inet[1],
            path=os.fsencode(self._target) if is_path else None,
            paused=self._paused,
            sender_waits=self._retry is not None or self._waits_writable,
        )

    @property
    def sock(self) -> socket.socket:
        """The socket that belongs to the record."""
        return self._sock

    def restore(self, record: DatagramPortRecord) -> None:
        """Go on; the constructor got the record's target."""
        if record.paused:
            self._paused = True
            self._loop.remove_reader(self._sock)
        if record.sender_waits:
            self._wait_for_room()

    # -- Lender -------------------------------------------------------------------------------------------------

    def can_lend(self, ready: Callable[[], None]) -> bool:
        return True

    def lend(self, inject: Inject) -> Lent:
        self._inject = inject
        self._stop_watching()
        self._paused = self._waits_writable = False
        return Lent((self.fd,), dest=sockaddr(self._sock.family, self._target))

    def take_back(self, input: bytes, output: bytes, *, lost: bool = False) -> None:
        if self._inject is not None and self._open:
            self._inject = None
            self._loop.add_reader(self._sock, self._readable)

    def _stop_watching(self) -> None:
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    # -- frames -------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(READ_BUDGET_FRAMES):
            try:
                frame = self._sock.recv(MAX_FRAME_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return  # an ICMP error for an earlier datagram; the next one is not affected
            if frame and not self._client.send(0, frame) and self._open:
                self._paused = True
                self._loop.remove_reader(self._sock)
                return
            if not self._open or self._inject is not None:
                return

    def resume(self) -> None:
        """The peer has room again."""
        if self._paused and self._open:
            self._paused = False
            self._loop.add_reader(self._sock, self._readable)

    def send(self, frame: Frame) -> bool:
        """Send a frame. False: the socket has no room, and `client.flush(0)` follows."""
        if not self._open:
            return True
        if self._inject is not None:
            self._inject(0, frame, b"")
            return True
        try:
            if self._target is None:
                self._sock.send(frame, socket.MSG_NOSIGNAL)
            else:
                self._sock.sendto(frame, socket.MSG_NOSIGNAL, self._target)
        except (BlockingIOError, InterruptedError):
            self._wait_for_room()
            return False
        except OSError:
            pass  # no receiver, or too long for the network: lost, as datagrams may be
        self._retry_s = RETRY_S
        return True

    def _wait_for_room(self) -> None:
        if self._sock.family == socket.AF_UNIX and self._target is not None:
            if self._retry is None:
                self._retry = self._loop.call_later(self._retry_s, self._writable)
                self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
        elif not self._waits_writable:
            self._waits_writable = True
            self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        self._retry = None
        if self._waits_writable:
            self._waits_writable = False
            self._loop.remove_writer(self._sock)
        self._client.flush(0)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._stop_watching()
        self._sock.close()


def sockaddr(family: int, target: Any) -> bytes:
    """The struct sockaddr of a destination (ip(7), unix(7)); empty for a connected socket."""
    if target is None:
        return b""
    head = struct.pack("=H", family)
    if family == socket.AF_INET:
        host, port = target
        return head + struct.pack(">H4s8x", port, socket.inet_aton(host))
    path = os.fsencode(target) if isinstance(target, str) else bytes(target)
    return head + path + (b"" if path.startswith(b"\0") else b"\0")


# -- addresses: convert_host_port and parse_host_port of QEMU's net/net.c -------------------------------------------


class Hosts:
    """The IPv4 addresses for the hosts in options; names are looked up before the netdev starts."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def preparation(
        self, loop: asyncio.AbstractEventLoop, hosts: Iterable[str]
    ) -> Coroutine[Any, Any, None] | None:
        """The lookup of the names among `hosts`; None if there is none."""
        names = [host for host in hosts if host and not host[0].isdigit()]
        return self._look_up(loop, names) if names else None

    async def _look_up(self, loop: asyncio.AbstractEventLoop, names: list[str]) -> None:
        for name in names:
            problem = f"can't resolve host address '{name}'"
            try:
                self._found[name] = await look_up(loop, functools.partial(socket.gethostbyname, name))
            except LookupFailed as error:
                raise NetError(f"{problem}: {error}") from None
            except (OSError, UnicodeError):
                raise NetError(problem) from None

    def address(self, host: str, port: str) -> Inet4:
        """The address of `host` and `port`; an empty host is any."""
        return self._number(host), _port(port)

    def parse(self, text: str) -> Inet4:
        """Parse `HOST:PORT`, as in socket's options."""
        host, colon, port = text.partition(":")
        if not colon:
            raise NetError(f"host address '{text}' doesn't contain ':' separating host from port")
        return self.address(host, port)

    def _number(self, host: str) -> str:
        if not host:
            return "0.0.0.0"
        if host in self._found:
            return self._found[host]
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            raise NetError(f"host address '{host}' is not a valid IPv4 address") from None


def _port(text: str) -> int:
    try:
        port = int(text, 0) if text.strip() == text and "_" not in text else -1
    except ValueError:
        port = -1
    if not 0 <= port <= 0xFFFF:
        raise NetError(f"port number '{text}' is invalid")
    return port


def is_group(host: str) -> bool:
    """Whether `host` is the numeric address of a multicast group."""
    try:
        return ipaddress.IPv4Address(host).is_multicast
    except ValueError:
        return False


def is_multicast(address: Inet4) -> bool:
    return socket.inet_aton(address[0])[0] >> 4 == 0xE


def inet4_text(address: Inet4) -> str:
    return f"{address[0]}:{address[1]}"


# -- sockets ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Making:
    """Closes a socket whose setup failed, and turns the failure of each step into its text."""

    sock: socket.socket

    def step(self, what: str, method: Any, *args: Any) -> None:
        try:
            method(*args)
        except OSError as error:
            self.sock.close()
            raise NetError(f"{what}: {error.strerror}") from None


def _new_socket(family: socket.AddressFamily) -> socket.socket:
    try:
        return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise NetError(f"can't create datagram socket: {error.strerror}") from None


def udp_socket(local: Inet4) -> socket.socket:
    """A socket bound to `local`."""
    sock = _new_socket(socket.AF_INET)
    making = _Making(sock)
    making.step(
        "can't set socket option SO_REUSEADDR", sock.setsockopt, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )
    making.step(f"can't bind ip={local[0]} to socket", sock.bind, local)
    return sock


def multicast_socket(group: Inet4, local: str | None) -> socket.socket:
    """A member of `group`, through the interface with the address `local` (net_dgram_mcast_create)."""
    if not is_multicast(group):
        number = int.from_bytes(socket.inet_aton(group[0]), "big")
        raise NetError(
            f"specified mcastaddr {group[0]} (0x{number:08x}) does not contain a multicast address"
        )
    interface = None
    if local is not None:
        try:
            interface = socket.inet_aton(local)
        except OSError:
            raise NetError(f"localaddr '{local}' is not a valid IPv4 address") from None
    sock = _new_socket(socket.AF_INET)
    making = _Making(sock)
    making.step(
        "can't set socket option SO_REUSEADDR", sock.setsockopt, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )
    making.step(f"can't bind ip={group[0]} to socket", sock.bind, group)
    making.step(
        f"can't add socket to multicast group {group[0]}",
        sock.setsockopt,
        socket.IPPROTO_IP,
        socket.IP_ADD_MEMBERSHIP,
        socket.inet_aton(group[0]) + (interface or bytes(4)),
    )
    # Other programs on this host may join the group, too.
    making.step(
        "can't force multicast message to loopback",
        sock.setsockopt,
        socket.IPPROTO_IP,
        socket.IP_MULTICAST_LOOP,
        1,
    )
    if interface is not None:
        making.step(
            "can't set the default network send interface",
            sock.setsockopt,
            socket.IPPROTO_IP,
            socket.IP_MULTICAST_IF,
            interface,
        )
    return sock


def datagram_socket_from_fd(fd: int) -> socket.socket:
    """Take over an inherited descriptor; it is closed if it is no datagram socket."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        close_fds([fd])
        raise NetError(f"File descriptor '{fd}' is not a socket") from None
    if sock.type != socket.SOCK_DGRAM:
        sock.close()
        raise NetError(f"File descriptor '{fd}' is not a datagram socket")
    return sock


def family_word(sock: socket.socket) -> str:
    """The SocketAddressType of a socket, as the info texts name it."""
    return "unix" if sock.family == socket.AF_UNIX else "inet"

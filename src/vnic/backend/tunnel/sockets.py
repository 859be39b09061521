"""The UDP sockets of tunnels: one that receives for all tunnels of a local address, and one for each that sends.

The sender's ephemeral port varies with the tunnel, so that routers with several ways spread tunnels over them
(RFC 7348 section 5). It is connected: the host at the other end tells it when nothing listens there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final, NamedTuple, Protocol

from vnic.backend.base import READ_BUDGET_FRAMES
from vnic.backend.tunnel.config import Place, Source, any_place, source_of
from vnic.backend.tunnel.info import SocketCounters
from vnic.net.errors import NetError
from vnic.protocol.vxlan import HEADER_BYTES, VxlanError, vni_of
from vnic.record import require

log = logging.getLogger("vnic.backend")

RECEIVE_BUFFER_BYTES: Final = 4 << 20
_DATAGRAM_BYTES: Final = 0x10000
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
_IP_MTU_DISCOVER: Final = 10  # linux/in.h
_IPV6_MTU_DISCOVER: Final = 23  # linux/in6.h
_PMTUDISC_DONT: Final = 0
_UDP_NO_CHECK6_RX: Final = 102  # linux/udp.h
_UDP_GRO: Final = 104
_SOL_UDP: Final = 17

TROUBLES: Final = {
    "unknown_vni": "a datagram of VNI {vni} from {source}, which no tunnel here has",
    "unknown_source": "a datagram of VNI {vni} from {source}, which is not that tunnel's remote address",
    "truncated": "a datagram from {source} that is too short for VXLAN",
    "not_vxlan": "a datagram from {source} that is no VXLAN",
}
"""One log line for each counter, the first time."""


class DatagramUser(Protocol):
    """A tunnel, as the socket that receives for it knows it."""

    def datagram(self, data: bytes) -> None:
        """A datagram of its VNI came from its remote address, with the VXLAN header."""


class SharedSocket:
    """The socket of one local address, and the tunnels that receive there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self.sock = sock
        self.counters = SocketCounters()
        self.place = Place(sock.family, sock.getsockname())
        self._users: dict[tuple[int, Source], DatagramUser] = {}
        self._vnis: dict[int, int] = {}
        """The number of tunnels by VNI."""
        self._told: set[str] = set()
        self._reading = False
        self._lent = False
        """vnic-wire reads it."""
        self.mover_counters = SocketCounters()
        """What vnic-wire has counted since it has the socket."""

    @property
    def in_use(self) -> bool:
        return bool(self._users)

    def has(self, vni: int, source: Source) -> bool:
        """Whether a tunnel has this VNI and remote address."""
        return (vni, source) in self._users

    def add(self, vni: int, source: Source, user: DatagramUser) -> None:
        """NetError if another tunnel has this VNI and remote address."""
        if self.has(vni, source):
            raise NetError(f"tunnel: VNI {vni} with {source[0]} is another tunnel's at {self.place.text()}")
        self._users[vni, source] = user
        self._vnis[vni] = self._vnis.get(vni, 0) + 1
        self.read_on()

    def remove(self, vni: int, source: Source) -> None:
        del self._users[vni, source]
        self._vnis[vni] -= 1
        if not self._vnis[vni]:
            del self._vnis[vni]

    def read_on(self) -> None:
        """Read, unless vnic-wire does."""
        if not self._reading and not self._lent:
            self._reading = True
            self._loop.add_reader(self.sock, self.read)

    def stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.sock)

    def lend(self) -> None:
        """vnic-wire reads it from now on."""
        self._lent = True
        self.stop_reading()

    def take_back(self) -> None:
        """vnic-wire reads it no more."""
        self._lent = False
        self.counters, self.mover_counters = self.all_counters(), SocketCounters()
        if self.in_use:
            self.read_on()

    def all_counters(self) -> SocketCounters:
        """Those of this process and of vnic-wire."""
        return self.counters.plus(self.mover_counters)

    def read(self) -> bool:
        """Pass on what is there, up to READ_BUDGET_FRAMES. True: the socket is empty."""
        for _ in range(READ_BUDGET_FRAMES):
            if not self._reading:
                return True
            try:
                data, ancillary, _, sender = self.sock.recvmsg(_DATAGRAM_BYTES, socket.CMSG_SPACE(4))
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                continue  # an ICMP error; the next datagram is not affected
            source = source_of(sender)
            for each in _segments(data, ancillary):
                self._take(each, source)
        return False

    def _take(self, data: bytes, source: Source) -> None:
        try:
            vni = vni_of(data)
        except VxlanError:
            self._trouble("truncated" if len(data) < HEADER_BYTES else "not_vxlan", source)
            return
        user = self._users.get((vni, source))
        if user is None:
            self._trouble("unknown_source" if vni in self._vnis else "unknown_vni", source, vni)
        else:
            user.datagram(data)

    def _trouble(self, cause: str, source: Source, vni: int = 0) -> None:
        setattr(self.counters, cause, getattr(self.counters, cause) + 1)
        if cause not in self._told:
            self._told.add(cause)
            text = TROUBLES[cause].format(source=source[0], vni=vni)
            log.warning("tunnels at %s: %s; more of them are only counted", self.place.text(), text)

    def close(self) -> None:
        self.stop_reading()
        self.sock.close()


def _segments(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> list[bytes]:
    """The datagrams of one read: with UDP_GRO the kernel hands over several of one sender at a time."""
    for level, kind, value in ancillary:
        if (level, kind) == (_SOL_UDP, _UDP_GRO):
            size = int.from_bytes(value[:4], "little")
            if 0 < size < len(data):
                return [data[at : at + size] for at in range(0, len(data), size)]
    return [data]


class Tunnels:
    """The receiving sockets of a machine, which its tunnels share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sockets: dict[Place, SharedSocket]) -> None:
        """`sockets`: those of the machine."""
        self._loop = loop
        self._sockets = sockets

    def open(self, place: Place) -> SharedSocket:
        """The socket that is bound to `place`. NetError if it cannot be."""
        there = self._sockets.get(place)
        return there if there is not None else self._keep(_receiving_socket(place))

    def find(self, sock: socket.socket) -> SharedSocket | None:
        """The SharedSocket of the same local address."""
        return self._sockets.get(Place(sock.family, sock.getsockname()))

    def adopt(self, sock: socket.socket) -> SharedSocket:
        """The SharedSocket of a socket that was saved; of several descriptors of it, the others are closed."""
        there = self.find(sock)
        if there is None:
            return self._keep(sock)
        sock.close()
        return there

    def _keep(self, sock: socket.socket) -> SharedSocket:
        shared = SharedSocket(self._loop, sock)
        self._sockets[shared.place] = shared
        return shared

    def release(self, shared: SharedSocket) -> None:
        """Close it if no tunnel has it."""
        if not shared.in_use:
            del self._sockets[shared.place]
            shared.close()


class TunnelSockets(NamedTuple):
    """Those of one tunnel."""

    shared: SharedSocket
    sending: socket.socket


def open_sockets(tunnels: Tunnels, local: Place | None, remote: Place, port: int) -> TunnelSockets:
    """The sockets of a tunnel to `remote`; without `local`, it receives at all addresses of this host, at `port`.
    NetError if they cannot be made."""
    place = any_place(remote.family, port) if local is None else local
    if place.family != remote.family:
        raise NetError("tunnel: local and remote are not of one family of addresses")
    shared = tunnels.open(place)
    try:
        return TunnelSockets(shared, _sending_socket(place, remote))
    except NetError:
        tunnels.release(shared)
        raise


def _new_socket(family: int) -> socket.socket:
    try:
        return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise NetError(f"tunnel: can't create a socket: {error.strerror}") from None


def _receiving_socket(place: Place) -> socket.socket:
    sock = _new_socket(place.family)
    try:
        if place.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(_SOL_UDP, _UDP_NO_CHECK6_RX, 1)  # kernels' VXLAN may send none
        sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        _enlarge(sock)
        sock.bind(place.sockaddr)
    except OSError as error:
        sock.close()
        raise NetError(f"tunnel: can't bind to {place.text()}: {error.strerror}") from None
    return sock


def _enlarge(sock: socket.socket) -> None:
    """Beyond the limit of net.core.rmem_max, if that is allowed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def _sending_socket(place: Place, remote: Place) -> socket.socket:
    sock = _new_socket(place.family)
    try:
        if place.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)  # routers may fragment
        sock.bind((place.host, 0, *place.sockaddr[2:]))
        sock.connect(remote.sockaddr)
    except OSError as error:
        sock.close()
        raise NetError(f"tunnel: can't send from {place.host} to {remote.text()}: {error.strerror}") from None
    return sock


def check_sockets(receiving: socket.socket, sending: socket.socket) -> None:
    """Raise RecordError unless a tunnel that is restored can use these."""
    for name, sock in (("receiving", receiving), ("sending", sending)):
        udp = sock.type == socket.SOCK_DGRAM and sock.family in (socket.AF_INET, socket.AF_INET6)
        require(udp, "", f"the {name} socket is none of UDP")
    require(receiving.family == sending.family, "", "the sockets are of two families")
    try:
        sending.getpeername()
    except OSError:
        require(False, "", "the sending socket is not connected")

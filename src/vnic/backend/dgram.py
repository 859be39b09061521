"""dgram: one frame per datagram, over UDP, UDP multicast, a unix datagram socket or a passed one (QEMU's net/dgram.c).

The registry makes it. Datagrams have no connection, so it never holds the link.
"""

from __future__ import annotations

import socket
from collections.abc import Coroutine
from typing import Any, NamedTuple

from vnic.backend.base import BackendContext
from vnic.backend.datagram import (
    DatagramPort,
    Hosts,
    datagram_socket_from_fd,
    family_word,
    inet4_text,
    is_group,
    is_multicast,
    multicast_socket,
    udp_socket,
)
from vnic.backend.options import DgramOptions
from vnic.backend.transport import TransportBackend, TransportRecord
from vnic.net.errors import NetError
from vnic.record import Record, require, within
from vnic.sockets.address import FdAddress, InetAddress, SocketAddress, UnixAddress
from vnic.sockets.bind import BoundPath, BoundPathRecord, socket_mode
from vnic.sockets.listener import bind_unix
from vnic.sockets.lock import PathError
from vnic.sockets.resolve import unix_sockaddr
from vnic.sockets.take_up import TakeUp, fileno


class DgramRecord(Record, frozen=True):
    """The state of a DgramBackend apart from its socket."""

    info: str
    """As `info network` prints it."""
    transport: TransportRecord
    path: BoundPathRecord | None


class DgramHandles(NamedTuple):
    """The socket of a DgramBackend, its own after `restore`, and the path that is removed with it."""

    sock: socket.socket | None
    path: BoundPath | None


class DgramFds(NamedTuple):
    """The descriptors of DgramHandles."""

    sock: int | None
    lock: int | None
    """That of the path."""


class DgramBackend(TransportBackend):
    """One dgram netdev."""

    kept_type = DgramRecord, DgramFds

    def __init__(self, context: BackendContext, options: DgramOptions) -> None:
        super().__init__(context)
        self._local = options.local
        self._remote = options.remote
        self._hosts = Hosts()
        self._mode = socket_mode(options.mode)
        is_path = isinstance(options.local, UnixAddress) and not options.local.abstract
        if options.mode is not None and not is_path:
            raise NetError("Parameter 'mode' is that of a path in local")
        self._path: BoundPath | None = None
        self._info = ""

    def preparation(self) -> Coroutine[Any, Any, None] | None:
        """Look up host names first; a group's local address has to be numeric (net_dgram_mcast_init)."""
        local, remote = self._local, self._remote
        hosts = []
        if isinstance(remote, InetAddress):
            hosts.append(remote.host)
            if isinstance(local, InetAddress) and not is_group(remote.host):
                hosts.append(local.host)
        return self._hosts.preparation(self.loop, hosts)

    def start(self) -> None:
        local, remote = self._local, self._remote
        if isinstance(remote, InetAddress):
            group = self._hosts.address(remote.host, remote.port)
            if is_multicast(group):
                self._start_multicast(group, local)
                return
        if local is None:
            raise NetError("dgram requires local= parameter")
        if remote is None:
            if not isinstance(local, FdAddress):
                raise NetError("type=inet or type=unix requires remote parameter")
            self._start_fd(local)
        elif isinstance(local, FdAddress):
            raise NetError("don't set remote with local.fd")
        elif isinstance(local, InetAddress) and isinstance(remote, InetAddress):
            self._start_udp(local, remote)
        elif isinstance(local, UnixAddress) and isinstance(remote, UnixAddress):
            self._start_unix(local, remote)
        elif type(local) is not type(remote):
            raise NetError("remote and local types must be the same")
        else:
            raise NetError("only support inet or fd type for local")

    def _start_udp(self, local: InetAddress, remote: InetAddress) -> None:
        here, there = (
            self._hosts.address(local.host, local.port),
            self._hosts.address(remote.host, remote.port),
        )
        self._transport = DatagramPort(self.loop, udp_socket(here), self.client, there)
        self._info = f"udp={inet4_text(here)}/{inet4_text(there)}"

    def _start_multicast(self, group: tuple[str, int], local: SocketAddress | None) -> None:
        if isinstance(local, FdAddress):
            self._start_fd(local, group)
            return
        if local is not None and not isinstance(local, InetAddress):
            raise NetError("only support inet or fd type for local")
        sock = multicast_socket(group, local.host if local is not None else None)
        self._transport = DatagramPort(self.loop, sock, self.client, group)
        self._info = f"mcast={inet4_text(group)}"

    def _start_fd(self, local: FdAddress, group: tuple[str, int] | None = None) -> None:
        """Use a passed socket. For a group it is replaced by a new socket, because a datagram at a shared socket
        reaches only one of its users."""
        passed = datagram_socket_from_fd(self.context.fds.take(local.text))
        if group is not None:
            number = passed.fileno()
            passed.close()
            self._transport = DatagramPort(self.loop, multicast_socket(group, None), self.client, group)
            self._info = f"fd={number} (cloned mcast={inet4_text(group)})"
            return
        self._transport = DatagramPort(self.loop, passed, self.client)
        self._info = f"fd={self._transport.fd} {family_word(passed)}"

    def _start_unix(self, local: UnixAddress, remote: UnixAddress) -> None:
        here, there = unix_sockaddr(local), unix_sockaddr(remote)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._path = bind_unix(sock, here, local, self._mode)
        except PathError as error:
            sock.close()
            raise NetError(f"can't bind unix={local.path} to socket: {error}") from None
        self._transport = DatagramPort(self.loop, sock, self.client, there)
        self._info = f"udp={local.path}:{remote.path}"

    # -- state apart from the socket ----------------------------------------------------------------------------

    def save(self) -> DgramRecord:
        path = None if self._path is None else self._path.save()
        return DgramRecord(info=self._info, transport=self.save_transport(), path=path)

    @property
    def handles(self) -> DgramHandles:
        """The socket and the path that belong to the record."""
        return DgramHandles(self.transport_socket, self._path)

    def save_kept(self) -> tuple[DgramRecord, DgramFds]:
        sock, path = self.handles
        return self.save(), DgramFds(fileno(sock), None if path is None else path.lock)

    def take_up(self, record: DgramRecord, handles: DgramFds) -> None:
        with TakeUp(handles) as taking:
            sock, path = taking.socket(handles.sock), taking.path(record.path, handles.lock)
            self.restore(record, DgramHandles(sock, path))

    def restore(self, record: DgramRecord, handles: DgramHandles) -> None:
        """Go on in the place of the netdev that was saved; called instead of `start`, and needs no `preparation`.
        Raises RecordError, and leaves the socket to the caller then."""
        with within("transport"):
            require(record.transport.port, "port", "is missing")
            record.transport.check(handles.sock)
        self._info, self._path = record.info, handles.path
        self.restore_transport(record.transport, handles.sock, _never)

    # -- Endpoint -----------------------------------------------------------------------------------------------

    def info_text(self, queue: int) -> str:
        return self._info

    def cleanup(self) -> None:
        self.close_transport()
        if self._path is not None:
            self._path.remove()


def _never(reason: str) -> None:
    """A port of datagrams is never lost."""

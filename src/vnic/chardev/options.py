"""The options of a `-chardev`: one Struct for each kind, which all of vnic uses.

`flat` converts the command line's form to them, and `qapi` that of chardev-add. Texts are those of QEMU's chardev/.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from vnic.net.errors import NetError
from vnic.sockets.address import FdAddress, InetAddress, UnixAddress
from vnic.sockets.bind import socket_mode
from vnic.sockets.resolve import unix_sockaddr

ChardevAddress: TypeAlias = UnixAddress | InetAddress | FdAddress


class SocketMembers(msgspec.Struct, rename="kebab", frozen=True, kw_only=True):
    """What every form of a socket's options has; the defaults are those of the command line."""

    server: bool = False
    wait: bool = True
    """Accepted, and without effect: vnic never waits for a peer."""
    nodelay: bool = True
    telnet: bool = False
    reconnect_ms: int = 0
    mode: str | None = None
    """The mode of the socket's path, in octal; only vnic has it."""

    def socket(self, label: str, addr: ChardevAddress) -> SocketOptions:
        return SocketOptions(
            id=label,
            addr=addr,
            server=self.server,
            wait=self.wait,
            nodelay=self.nodelay,
            telnet=self.telnet,
            reconnect_ms=self.reconnect_ms,
            mode=self.mode,
        )


class SocketOptions(SocketMembers, frozen=True, kw_only=True):
    """A socket."""

    id: str
    addr: ChardevAddress

    def check(self) -> None:
        """Refuse options that contradict each other. Raises NetError."""
        is_fd = isinstance(self.addr, FdAddress)
        if is_fd and self.telnet:
            raise NetError("'telnet' option is incompatible with 'fd' address type")
        if isinstance(self.addr, UnixAddress):
            unix_sockaddr(self.addr)
        socket_mode(self.mode)
        has_path = isinstance(self.addr, UnixAddress) and not self.addr.abstract
        if self.mode is not None and not (has_path and self.server):
            raise NetError("chardev: socket: 'mode' is that of a path with server=on")
        if self.reconnect_ms < 0:
            raise NetError("Parameter 'reconnect-ms' expects a non-negative integer")
        if self.reconnect_ms and self.server:
            raise NetError("'reconnect-ms' option is incompatible with socket in server listen mode")
        if self.reconnect_ms and is_fd:
            raise NetError("'reconnect-ms' option is incompatible with 'fd' address type")

    @property
    def filename(self) -> str:
        """The name in the log and in query-chardev (chardev/char-socket.c: qemu_chr_socket_address)."""
        match self.addr:
            case UnixAddress(path=path, abstract=abstract, tight=tight):
                where = f"unix:{path}"
                if abstract:
                    where += ",abstract=on" + (",tight=on" if tight else "")
            case FdAddress(text=text):
                where = f"fd:{text}"
            case InetAddress(host=host, port=port):
                where = f"{'telnet' if self.telnet else 'tcp'}:{host}:{port}"
        return where + (",server=on" if self.server else "")


class StdioOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Standard input and output. `signal` is accepted and has no effect: Ctrl-C always ends the program."""

    id: str
    signal: bool = True


class NullOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A chardev that never has a peer."""

    id: str


ChardevOptions: TypeAlias = SocketOptions | StdioOptions | NullOptions

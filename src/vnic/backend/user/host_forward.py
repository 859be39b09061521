"""hostfwd: the rules of a user netdev that forward a port of the host to a port of the guest (net/slirp.c).

`user` passes them to passt, HMP's hostfwd_add and hostfwd_remove change them, and `info usernet` lists them.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from vnic.net.errors import NetError

ANY = ("", "0.0.0.0")
TABLE_HEAD = "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
NO_DESCRIPTOR = -1
"""The FD column of the table: the sockets belong to passt."""


@dataclass(frozen=True, slots=True)
class HostForward:
    """One rule. `host` is empty for all addresses of the host."""

    protocol: str
    host: str
    host_port: int
    guest: str
    guest_port: int

    @property
    def source(self) -> tuple[str, str, int]:
        """The key of a rule: protocol, address and port of the host."""
        return self.protocol, self.host, self.host_port

    def rule(self) -> str:
        """The rule as `parse_rule` takes it."""
        return f"{self.protocol}:{self.host}:{self.host_port}-{self.guest}:{self.guest_port}"

    def specification(self) -> str:
        """The rule in the form of passt's --tcp-ports and --udp-ports."""
        ports = f"{self.host_port}:{self.guest_port}"
        return f"{self.host}/{ports}" if self.host else ports

    def line(self) -> str:
        """The rule's line in `info usernet` (libslirp's slirp_connection_info)."""
        state = f"  {self.protocol.upper()}[HOST_FORWARD]"
        addresses = f"{self.host or '*':>15} {self.host_port:5} {self.guest:>15} {self.guest_port:5}"
        return f"{state:<19} {NO_DESCRIPTOR:3} {addresses} {0:5} {0:5}\n"

    def can_listen(self) -> bool:
        """Whether the host's port is free, and the address belongs to the host."""
        kind = socket.SOCK_STREAM if self.protocol == "tcp" else socket.SOCK_DGRAM
        with contextlib.closing(socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host or "0.0.0.0", self.host_port))
                if kind == socket.SOCK_STREAM:
                    probe.listen(1)
            except OSError:
                return False
        return True


def parse_rule(rule: str, guest: str) -> HostForward:
    """Parse `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport` (net/slirp.c: slirp_hostfwd). `guest` is the address
    of the guest. NetError with QEMU's text."""

    def bad(reason: str) -> NetError:
        return NetError(f"Invalid host forwarding rule '{rule}' ({reason})")

    protocol, colon, rest = rule.partition(":")
    if not colon:
        raise bad("No : separators")
    if protocol not in ("", "tcp", "udp"):
        raise bad("Bad protocol name")
    host, colon, rest = rest.partition(":")
    if not colon:
        raise bad("Missing : separator")
    host_port, dash, target = rest.partition("-")
    if not dash:
        raise bad("Bad host port separator")
    guest_address, colon, guest_port = target.partition(":")
    if not colon:
        raise bad("Missing guest address")
    if host and not _is_ipv4(host):
        raise bad("Bad host address")
    if not _is_port(host_port):
        raise bad("Bad host port")
    if guest_address and not _is_ipv4(guest_address):
        raise bad("Bad guest address")
    if not _is_port(guest_port):
        raise bad("Bad guest port")
    if guest_address not in (*ANY, guest):
        raise bad(f"passt forwards to the guest that it serves only: {guest}")
    return HostForward(protocol or "tcp", "" if host in ANY else host, int(host_port), guest, int(guest_port))


def parse_source(text: str) -> tuple[str, str, int] | None:
    """Parse `[tcp|udp]:[hostaddr]:hostport`, as hostfwd_remove takes it; None if it is malformed."""
    protocol, colon, rest = text.partition(":")
    host, second, port = rest.partition(":")
    if not colon or not second or protocol not in ("", "tcp", "udp") or (host and not _is_ipv4(host)):
        return None
    if not (port.isascii() and port.isdecimal()):
        return None
    return protocol or "tcp", "" if host in ANY else host, int(port)


def _is_ipv4(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, text)
    except OSError:
        return False
    return True


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= 0xFFFF

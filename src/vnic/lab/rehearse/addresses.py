"""Chooses the addresses between which probes go, from what `ip -o addr` says in the two guests. Pure."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Collection
from typing import Final, NamedTuple

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SCRIPT: Final = "ip -o addr show scope global"
_LINE: Final = re.compile(r"^\d+:\s+(\S+?)(?:@\S+)?\s+inet6?\s+(\S+)", re.MULTILINE)


class Had(NamedTuple):
    """An address that a guest has."""

    address: Interface
    on_nic: bool
    """It is that of a NIC of the lab, and goes with it; else that of a bond, a bridge, a loopback interface."""


def parse(text: str, nics: Collection[str]) -> list[Had]:
    """The addresses in the output of SCRIPT; `nics` are the names of the node's NICs."""
    found = []
    for name, address in _LINE.findall(text):
        try:
            found.append(Had(ipaddress.ip_interface(address), name in nics))
        except ValueError:  # `peer`, or what a newer ip may print
            continue
    return found


def choose(here: list[Had], there: list[Had]) -> tuple[Address, Address] | None:
    """The addresses of both ends: those that are no NIC's first, then those of one network, IPv4 first."""
    pairs = [(one, two) for one in here for two in there if one.address.version == two.address.version]
    if not pairs:
        return None

    def rank(pair: tuple[Had, Had]) -> tuple[int, bool, int]:
        one, two = pair
        return one.on_nic + two.on_nic, one.address.network != two.address.network, one.address.version

    one, two = min(pairs, key=rank)
    return one.address.ip, two.address.ip


def sockaddr(address: Address, port: int) -> bytes:
    """A struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7))."""
    if isinstance(address, ipaddress.IPv4Address):
        return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + address.packed + bytes(8)
    return struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, 0) + address.packed + bytes(4)

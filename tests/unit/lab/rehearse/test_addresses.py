"""The addresses that probes go between."""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import ip_address

from vnic.lab.rehearse.addresses import Had, choose, parse, sockaddr

BUSYBOX = """\
2: eth1    inet 10.0.1.1/24 scope global eth1\\       valid_lft forever preferred_lft forever
4: bond0    inet 10.0.0.1/24 scope global bond0\\       valid_lft forever preferred_lft forever
4: bond0    inet6 fd00::1/64 scope global \\       valid_lft forever preferred_lft forever
7: v0@eth1    inet 192.0.2.1 peer 192.0.2.2/32 scope global v0
"""


def had(*texts: str, on_nic: bool = False) -> list[Had]:
    return [Had(ipaddress.ip_interface(text), on_nic) for text in texts]


def test_addresses_are_read() -> None:
    found = parse(BUSYBOX, {"eth1"})
    assert found == [
        *had("10.0.1.1/24", on_nic=True),
        *had("10.0.0.1/24", "fd00::1/64", "192.0.2.1"),
    ]


def test_nothing_is_read_from_an_error() -> None:
    assert parse("ip: not found\n", ()) == []


def test_an_address_of_a_bond_goes_before_those_of_nics() -> None:
    here = had("10.0.1.1/24", on_nic=True) + had("10.0.0.1/24")
    there = had("10.0.1.2/24", on_nic=True) + had("10.0.0.2/24")
    assert choose(here, there) == (ip_address("10.0.0.1"), ip_address("10.0.0.2"))


def test_addresses_of_one_network_go_together() -> None:
    here = had("10.0.1.1/24", "10.0.3.1/24", on_nic=True)
    there = had("10.0.2.2/24", "10.0.3.2/24", on_nic=True)
    assert choose(here, there) == (ip_address("10.0.3.1"), ip_address("10.0.3.2"))


def test_both_are_of_one_family() -> None:
    assert choose(had("10.0.1.1/24", "fd00::1/64"), had("fd00::2/64")) == (
        ip_address("fd00::1"),
        ip_address("fd00::2"),
    )
    assert choose(had("10.0.1.1/24"), had("fd00::2/64")) is None
    assert choose([], had("fd00::2/64")) is None


def test_socket_addresses_are_those_of_the_kernel() -> None:
    four = sockaddr(ip_address("127.0.0.1"), 4660)
    assert len(four) == 16
    assert four[2:8] == b"\x12\x34\x7f\x00\x00\x01"
    six = sockaddr(ip_address("::1"), 4660)
    assert len(six) == 28
    assert int.from_bytes(six[:2], "little") == socket.AF_INET6
    assert six[8:24] == ip_address("::1").packed

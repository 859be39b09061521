"""The Toeplitz hash against the vectors of Microsoft's verification suite, and what of a frame is hashed."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from vnic.nic import packet, rss

KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
VECTORS = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323E8FC2, 0x51CCC178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xD718262A, 0xC626B0EA),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xD2D0A5DE, 0x5C2B394A),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2CC18CD5, 0x40207D3D),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0F0C461C, 0xDDE51BBF),
]


def tcp(source: str, sport: int, destination: str, dport: int) -> bytes:
    ends = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    segment = struct.pack(">HHIIBBHHH", sport, dport, 0, 0, 0x50, 0, 0, 0, 0)
    addresses = ends[0].packed + ends[1].packed
    if ends[0].version == 4:
        return (
            bytes(12)
            + b"\x08\0"
            + struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0)
            + addresses
            + segment
        )
    return bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, 20, 6, 64) + addresses + segment


@pytest.mark.parametrize(("source", "sport", "destination", "dport", "ip_hash", "tcp_hash"), VECTORS)
def test_hash_is_as_the_verification_suite_says(
    source: str, sport: int, destination: str, dport: int, ip_hash: int, tcp_hash: int
) -> None:
    frame = tcp(source, sport, destination, dport)
    found = packet.headers(frame)
    assert rss.toeplitz(KEY, rss.flow(frame, found, ports=False)) == ip_hash
    assert rss.toeplitz(KEY, rss.flow(frame, found, ports=True)) == tcp_hash


def test_addresses_of_extension_headers_stand_for_those_of_the_ip_header() -> None:
    plain = tcp("fe80::1", 1, "fe80::2", 2)
    home, routed = bytes(range(16)), bytes(range(16, 32))
    routing = b"\x3c\x02\x02\x01\0\0\0\0" + routed
    destination = b"\x06\x02" + b"\0\x01\x00\xc9\x10" + home + b"\0"
    frame = plain[:18] + struct.pack(">HB", 20 + 48, 43) + plain[21:54] + routing + destination + plain[54:]
    found = packet.headers(frame)
    assert (found.transport, found.extensions) == (packet.TCP, True)
    assert rss.flow(frame, found, ports=False) == frame[22:54]
    assert rss.flow(frame, found, ports=False, extended=True) == home + routed

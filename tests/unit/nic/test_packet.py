"""The headers of received frames: whole ones, malformed ones, and checksums."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.net import offload
from vnic.nic import packet

ADDRESSES = b"\x0a\0\0\1\x0a\0\0\2"


def ipv4(protocol: int, payload: bytes, flags: int = 0) -> bytes:
    header = bytearray(
        struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, flags, 64, protocol, 0) + ADDRESSES
    )
    offload.fill_checksum(header, 0, 10)
    return bytes(12) + b"\x08\0" + bytes(header) + payload


def udp(data: bytes = b"hello") -> bytes:
    frame = bytearray(ipv4(17, struct.pack(">HHHH", 5, 6, 8 + len(data), 0) + data))
    pseudo = offload.ones_sum(ADDRESSES) + 17 + 8 + len(data)
    struct.pack_into(">H", frame, 40, pseudo)
    offload.fill_checksum(frame, 34, 40)
    return bytes(frame)


@pytest.mark.parametrize("padding", [0, 13])
def test_udp(padding: int) -> None:
    frame = udp() + b"\xff" * padding
    found = packet.headers(frame)
    assert found[:6] == (4, 14, 34, 47, packet.UDP, 42)
    assert packet.ip_checksum_right(frame, found)
    assert packet.transport_checksum_right(frame, found)


def test_wrong_checksums_are_found() -> None:
    frame = bytearray(udp())
    frame[45] ^= 1
    found = packet.headers(frame)
    assert packet.ip_checksum_right(frame, found)
    assert packet.transport_checksum_right(frame, found) is False
    frame[22] ^= 1
    assert packet.ip_checksum_right(frame, found) is False


def test_udp_over_ipv4_may_go_without_checksum() -> None:
    frame = bytearray(udp())
    frame[40:42] = b"\0\0"
    assert packet.transport_checksum_right(frame, packet.headers(frame)) is None


def test_vlan_tags_are_passed_over() -> None:
    frame = udp()
    tagged = frame[:12] + b"\x88\xa8\0\1\x81\0\0\2" + frame[12:]
    found = packet.headers(tagged)
    assert (found.l3, found.transport) == (22, packet.UDP)
    assert packet.transport_checksum_right(tagged, found)


def test_fragment_has_no_transport() -> None:
    found = packet.headers(ipv4(17, bytes(40), flags=0x2000))
    assert (found.fragment, found.transport, found.l4) == (True, 0, 34)
    hop = packet.headers(
        bytes(12)
        + b"\x86\xdd"
        + struct.pack(">IHBB", 6 << 28, 16, 44, 64)
        + bytes(32)
        + b"\x11\0\0\x09"
        + bytes(12)
    )
    assert (hop.fragment, hop.transport, hop.l4) == (True, 0, 62)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(13),
        bytes(12) + b"\x81\0",
        bytes(12) + b"\x08\0" + bytes(10),
        bytes(12) + b"\x08\0\x41" + bytes(30),
        udp()[:-1],
        bytes(12) + b"\x86\xdd\x60" + bytes(3) + b"\xff\xff" + bytes(60),
    ],
)
def test_malformed_headers_count_as_not_there(frame: bytes) -> None:
    found = packet.headers(frame)
    assert found.version == 0
    assert packet.ip_checksum_right(frame, found) is None
    assert packet.transport_checksum_right(frame, found) is None


@given(
    kind=st.sampled_from([b"\x08\0\x45", b"\x86\xdd\x60", b"\x81\0\0\1\x08\0\x46"]),
    rest=st.binary(max_size=200),
)
def test_no_frame_is_too_strange(kind: bytes, rest: bytes) -> None:
    frame = bytes(12) + kind + rest
    found = packet.headers(frame)
    assert 0 <= found.l3 <= found.l4 <= found.end <= len(frame) or found.version == 0
    assert found.payload <= found.end
    packet.ip_checksum_right(frame, found)
    packet.transport_checksum_right(frame, found)

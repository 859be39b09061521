"""`complete` against an independent checker: every frame that comes out must verify, and together carry the payload."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.net import offload as o

ETH = bytes.fromhex("525400000002 525400000001")
SRC4, DST4 = bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
SRC6, DST6 = bytes(15) + b"\x01", b"\xfd" + bytes(14) + b"\x02"


def slow_sum(data: bytes) -> int:
    """RFC 1071 word by word, as a reference."""
    total = 0
    for index in range(0, len(data), 2):
        total += data[index] << 8 | (data[index + 1] if index + 1 < len(data) else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(protocol: int, length: int, v6: bool) -> int:
    addresses = SRC6 + DST6 if v6 else SRC4 + DST4
    return slow_sum(addresses + struct.pack(">II", length, protocol))


def build(
    protocol: int,
    payload: bytes,
    v6: bool = False,
    tags: bytes = b"",
    flags: int = 0x18,
    seq: int = 0xFFFFFF00,
) -> tuple[bytes, int, int]:
    """A frame as a driver hands it over for offload; with it where L3 and L4 begin."""
    length = (20 if protocol == 6 else 8) + len(payload)
    partial = pseudo(protocol, length, v6)
    if protocol == 6:
        l4 = struct.pack(">HHIIBBHHH", 4000, 80, seq, 7, 5 << 4, flags, 500, partial, 0)
    else:
        l4 = struct.pack(">HHHH", 4000, 53, length & 0xFFFF, partial)
    if v6:
        l3 = struct.pack(">IHBB", 6 << 28, length & 0xFFFF, protocol, 64) + SRC6 + DST6
    else:
        head = struct.pack(">BBHHHBB", 0x45, 0, (20 + length) & 0xFFFF, 0xFFFF, 0, 64, protocol)
        l3 = head + bytes(2) + SRC4 + DST4
    ethernet = ETH + tags + (b"\x86\xdd" if v6 else b"\x08\x00")
    return ethernet + l3 + l4 + payload, len(ethernet), len(ethernet) + len(l3)


def header(gso_type: int, size: int, l4: int, tcp: bool = True, hdr_len: int = 0, flags: int = 1) -> bytes:
    return struct.pack("<BBHHHH", flags, gso_type, hdr_len, size, l4, 16 if tcp else 6)


def verify(frame: bytes, l3: int, l4: int, protocol: int, v6: bool) -> bytes:
    """Check lengths and checksums of one finished frame; its payload."""
    if v6:
        assert int.from_bytes(frame[l3 + 4 : l3 + 6], "big") == len(frame) - l3 - 40
    else:
        assert int.from_bytes(frame[l3 + 2 : l3 + 4], "big") == len(frame) - l3
        assert slow_sum(frame[l3:l4]) == 0xFFFF
    assert slow_sum(struct.pack(">H", pseudo(protocol, len(frame) - l4, v6)) + frame[l4:]) == 0xFFFF
    if protocol == 17:
        assert int.from_bytes(frame[l4 + 4 : l4 + 6], "big") == len(frame) - l4
    return frame[l4 + (20 if protocol == 6 else 8) :]


@given(st.binary(max_size=200))
def test_checksum_is_the_internet_checksum(data: bytes) -> None:
    expected = 0xFFFF - slow_sum(data)
    assert o.checksum(data) == (expected or 0xFFFF)


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("protocol", [6, 17])
def test_needs_csum_fills_the_checksum(protocol: int, v6: bool) -> None:
    frame, l3, l4 = build(protocol, b"odd payload", v6)
    (done,) = o.complete(header(0, 0, l4, protocol == 6), memoryview(frame) if v6 else frame)
    if not v6:  # no segmentation: the IP header is the driver's own affair
        done = done[: l3 + 10] + struct.pack(">H", 0xFFFF - slow_sum(done[l3:l4])) + done[l3 + 12 :]
    assert verify(done, l3, l4, protocol, v6) == b"odd payload"


def test_frame_without_offload_is_unchanged() -> None:
    assert o.complete(bytes(10), b"frame") == [b"frame"]
    assert o.complete(bytes([2]) + bytes(9), b"frame") == [b"frame"]  # DATA_VALID


def test_udp_checksum_of_zero_is_sent_as_ffff() -> None:
    frame = bytearray(b"\xff\xff" + bytes(6))
    o.fill_checksum(frame, 0, 2)
    assert frame[2:4] == b"\xff\xff"


@pytest.mark.parametrize("tags", [b"", b"\x81\x00\x00\x64", b"\x88\xa8\x00\x64\x81\x00\x00\x07"])
@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("size", [536, 1448, 65000])
def test_tso_segments_verify(v6: bool, tags: bytes, size: int) -> None:
    payload = os.urandom(10_001)
    frame, l3, l4 = build(6, payload, v6, tags, flags=0x80 | 0x19)
    done = o.complete(header((4 if v6 else 1) | 0x80, size, l4, hdr_len=3), frame)
    assert len(done) == -(-len(payload) // size)
    sequence, got = 0xFFFFFF00, b""
    for index, segment in enumerate(done):
        assert segment[:l3] == frame[:l3]
        assert int.from_bytes(segment[l4 + 4 : l4 + 8], "big") == (sequence + len(got)) & 0xFFFFFFFF
        last = index == len(done) - 1
        assert segment[l4 + 13] == (0x10 | (0x09 if last else 0) | (0x80 if index == 0 else 0))
        if not v6:
            assert int.from_bytes(segment[l3 + 4 : l3 + 6], "big") == (0xFFFF + index) & 0xFFFF
        part = verify(segment, l3, l4, 6, v6)
        assert last or len(part) == size
        got += part
    assert got == payload


@pytest.mark.parametrize("v6", [False, True])
def test_tso_of_short_frame_makes_one_frame(v6: bool) -> None:
    frame, l3, l4 = build(6, b"", v6)
    (done,) = o.complete(header(4 if v6 else 1, 1448, l4), frame)
    assert verify(done, l3, l4, 6, v6) == b""


def test_tso6_segments_verify_with_routing_header() -> None:
    """The final address differs from the header's, so only the driver's pseudo-header sum leads to the checksum."""
    frame, l3, l4 = build(6, bytes(range(256)) * 8, True)
    routing = bytes([6, 2, 4, 1]) + bytes(20)
    frame = (
        frame[: l3 + 6] + b"\x2b" + frame[l3 + 7 : l3 + 24] + bytes(16) + frame[l4:l4] + routing + frame[l4:]
    )
    l4 += len(routing)
    got = b""
    for segment in o.complete(header(4, 1000, l4), frame):
        assert int.from_bytes(segment[l3 + 4 : l3 + 6], "big") == len(segment) - l3 - 40
        assert slow_sum(struct.pack(">H", pseudo(6, len(segment) - l4, True)) + segment[l4:]) == 0xFFFF
        got += segment[l4 + 20 :]
    assert got == bytes(range(256)) * 8


@pytest.mark.parametrize("v6", [False, True])
def test_uso_segments_verify(v6: bool) -> None:
    payload = os.urandom(5000)
    frame, l3, l4 = build(17, payload, v6)
    done = o.complete(header(5, 1200, l4, tcp=False), frame)
    assert b"".join(verify(segment, l3, l4, 17, v6) for segment in done) == payload


def test_ufo_makes_ipv4_fragments() -> None:
    payload = os.urandom(5001)
    frame, l3, l4 = build(17, payload)
    datagram = b""
    done = o.complete(header(3, 1483, l4, tcp=False), frame)
    for fragment in done:
        assert slow_sum(fragment[l3:l4]) == 0xFFFF
        assert int.from_bytes(fragment[l3 + 2 : l3 + 4], "big") == len(fragment) - l3
        field = int.from_bytes(fragment[l3 + 6 : l3 + 8], "big")
        assert (field & 0x1FFF) * 8 == len(datagram)
        assert bool(field & 0x2000) == (fragment is not done[-1])
        datagram += fragment[l4:]
    assert datagram[8:] == payload
    assert slow_sum(struct.pack(">H", pseudo(17, len(datagram), False)) + datagram) == 0xFFFF


def test_ufo_makes_ipv6_fragments() -> None:
    payload = os.urandom(4000)
    frame, l3, l4 = build(17, payload, True)
    datagram, ids = b"", set()
    done = o.complete(header(3, 1400, l4, tcp=False), frame)
    for fragment in done:
        assert fragment[l3 + 6] == 44
        assert int.from_bytes(fragment[l3 + 4 : l3 + 6], "big") == len(fragment) - l3 - 40
        protocol, _, offset, ident = struct.unpack_from(">BBHI", fragment, l4)
        assert protocol == 17
        assert offset & ~7 == len(datagram)
        assert offset & 1 == (fragment is not done[-1])
        ids.add(ident)
        datagram += fragment[l4 + 8 :]
    assert len(ids) == 1
    assert datagram[8:] == payload
    assert slow_sum(struct.pack(">H", pseudo(17, len(datagram), True)) + datagram) == 0xFFFF


def _hostile() -> list[tuple[str, bytes, bytes]]:
    tcp, _, l4 = build(6, bytes(3000))
    tcp6, _, l46 = build(6, bytes(3000), True)
    udp, _, _ = build(17, bytes(3000))
    udp6, _, _ = build(17, bytes(3000), True)
    short_doff = bytearray(tcp)
    short_doff[l4 + 12] = 0x40
    long_doff = bytearray(tcp[: l4 + 20])
    long_doff[l4 + 12] = 0xF0
    wrong_ihl = bytearray(tcp)
    wrong_ihl[14] = 0x4F
    huge = build(6, bytes(66_000))[0]
    return [
        ("short header", bytes(9), tcp),
        ("csum_start outside", header(0, 0, 60_000), tcp),
        ("csum field outside", header(0, 0, len(tcp) - 4), tcp),
        ("csum of an empty frame", header(0, 0, 0), b""),
        ("gso without csum", header(1, 1448, l4, flags=0), tcp),
        ("gso_size 0", header(1, 0, l4), tcp),
        ("gso_size 1", header(1, 1, l4), build(6, bytes(60_000))[0]),
        ("unknown gso_type", header(2, 1448, l4), tcp),
        ("unknown gso_type 127", header(127, 1448, l4), tcp),
        ("tso4 on IPv6", header(1, 1448, l46), tcp6),
        ("tso6 on IPv4", header(4, 1448, l4), tcp),
        ("uso on TCP", header(5, 1448, l4, tcp=False), tcp),
        ("tso on UDP", header(1, 1448, l4), udp),
        ("tso with UDP's csum_offset", header(1, 1448, l4, tcp=False), tcp),
        ("csum_start in the IP header", header(1, 1448, 20), tcp),
        ("csum_start in Ethernet", header(1, 1448, 0), tcp),
        ("tso of a runt", header(1, 1448, l4), tcp[:13]),
        ("tso of half a header", header(1, 1448, l4), tcp[: l4 + 10]),
        ("data offset 4", header(1, 1448, l4), bytes(short_doff)),
        ("data offset past the end", header(1, 1448, l4), bytes(long_doff)),
        ("ihl 15", header(1, 1448, l4), bytes(wrong_ihl)),
        ("longer than an IP packet", header(1, 65_535, l4), huge),
        ("frame too long", header(1, 1448, l4), build(6, bytes(70_000))[0]),
        ("ufo with fragments of 7", header(3, 7, l4, tcp=False), udp),
        ("TCP in the header, UDP in IP", header(1, 1448, l4), tcp[:23] + b"\x11" + tcp[24:]),
        ("ufo behind an extension header", header(3, 1400, l46, tcp=False), udp6[:20] + b"\0" + udp6[21:]),
        ("not IP", header(1, 1448, l4), tcp[:12] + b"\x12\x34" + tcp[14:]),
    ]


@pytest.mark.parametrize(("what", "asked", "frame"), [pytest.param(*case, id=case[0]) for case in _hostile()])
def test_hostile_offload_header_is_refused(what: str, asked: bytes, frame: bytes) -> None:
    with pytest.raises(o.OffloadError):
        o.complete(asked, frame)


@given(
    st.binary(min_size=10, max_size=10),
    st.one_of(
        st.binary(max_size=300), st.sampled_from([build(6, bytes(900))[0], build(17, bytes(900), True)[0]])
    ),
)
def test_any_header_gives_frames_or_offload_error(asked: bytes, frame: bytes) -> None:
    try:
        done = o.complete(asked, frame)
    except o.OffloadError:
        return
    assert 1 <= len(done) <= o.MAX_SEGMENTS + 1


@given(
    st.integers(0, 255),
    st.sampled_from([0, 1, 3, 4, 5, 0x81]),
    st.integers(0, 1500),
    st.integers(0, 120),
    st.sampled_from([6, 16, 0]),
    st.integers(0, 1100),
)
def test_mutated_header_gives_frames_or_offload_error(
    flags: int, kind: int, size: int, start: int, offset: int, cut: int
) -> None:
    frame = build(6, bytes(1000))[0][:cut]
    try:
        done = o.complete(struct.pack("<BBHHHH", flags, kind, 0, size, start, offset), frame)
    except o.OffloadError:
        return
    assert len(done) <= o.MAX_SEGMENTS + 1

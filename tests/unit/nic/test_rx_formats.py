"""The layouts of Intel's receive descriptors: how frames are cut, and the bytes that are written back."""

from __future__ import annotations

import struct

import pytest

from vnic.nic.intel.rx_formats import DD, EOP, UNSHOWN, VP, Arrival, Extended, Legacy, PacketSplit

FRAME = bytes(range(200))
ARRIVAL = Arrival(1 << 29 | 2 << 16 | 0x40 | VP, tag=0x123, mrq=0x101, rss=0xCAFE, header_bytes=54)


@pytest.mark.parametrize(
    ("size", "lengths"), [(256, [200]), (200, [200]), (64, [64, 64, 64, 8]), (100, [100, 100])]
)
def test_frame_is_cut_into_buffers(size: int, lengths: list[int]) -> None:
    parts = Legacy(size).cut(FRAME, 0)
    assert [len(piece) for (piece,) in parts] == lengths
    assert b"".join(piece for (piece,) in parts) == FRAME


@pytest.mark.parametrize(
    ("sizes", "header", "lengths"),
    [
        ((128, 256, 0, 0), 54, [(54, 146, 0, 0)]),
        ((128, 64, 32, 0), 54, [(54, 64, 32, 0), (0, 50, 0, 0)]),
        ((128, 64, 0, 64), 0, [(128, 64, 0, 8)]),
        ((128, 64, 0, 0), 129, [(128, 64, 0, 0), (8, 0, 0, 0)]),
        ((128, 0, 0, 0), 54, [(128, 0, 0, 0), (72, 0, 0, 0)]),
        ((0, 0, 0, 0), 0, [(0, 0, 0, 0)]),
    ],
)
def test_headers_are_split_off(
    sizes: tuple[int, int, int, int], header: int, lengths: list[tuple[int, ...]]
) -> None:
    parts = PacketSplit(sizes).cut(FRAME, header)
    assert [tuple(map(len, pieces)) for pieces in parts] == lengths
    if any(sizes):
        assert b"".join(piece for pieces in parts for piece in pieces) == FRAME


def test_legacy_descriptor() -> None:
    at, data, status = Legacy(2048).written_back((b"12345",), ARRIVAL)
    assert at == 8
    assert struct.unpack("<HHBBH", data) == (5, 0, 0x40 | VP | EOP | UNSHOWN, 0x20, 0x123)
    assert status == 0x40 | VP | EOP | DD
    assert Legacy(2048).written_back((b"",), None) == (8, struct.pack("<HHBBH", 0, 0, UNSHOWN, 0, 0), DD)


def test_extended_descriptor() -> None:
    at, data, status = Extended(2048).written_back((b"12345",), ARRIVAL)
    assert at == 0
    assert struct.unpack("<IIIHH", data) == (0x101, 0xCAFE, ARRIVAL.status | EOP | UNSHOWN, 5, 0x123)
    assert status == 0x40 | VP | EOP | DD
    assert struct.unpack("<IIIHH", Extended(2048).written_back((b"12",), None)[1]) == (0, 0, UNSHOWN, 2, 0)


def test_packet_split_descriptor() -> None:
    layout = PacketSplit((128, 256, 0, 0))
    at, data, status = layout.written_back((bytes(54), b"123", b"", b""), ARRIVAL)
    assert at == 0
    assert struct.unpack("<IIIHHHHHHQ", data) == (
        *(0x101, 0xCAFE, ARRIVAL.status | EOP | UNSHOWN, 54, 0x123),
        *(54 | 0x8000, 3, 0, 0, 0),
    )
    assert status == 0x40 | VP | EOP | DD
    assert layout.buffer_bytes == 192

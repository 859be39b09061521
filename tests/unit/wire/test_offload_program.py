"""vnic-wire's offload.c against net/offload.py: the same frames and the same refusals, however the frame is cut."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.wire.compile import PROGRAM, compile_program

from vnic.net import offload

HEADER = struct.Struct("<BBHHHH")
U32 = struct.Struct("=I")
DONE, BAD = 0, 2


class Harness:
    """The test program, with one request under way at a time."""

    def __init__(self, program: Path) -> None:
        self._child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def complete(self, header: bytes, pieces: list[bytes], room: int = 0) -> list[bytes] | None:
        """The resulting frames; None: refused."""
        to, source = self._pipes()
        to.write(header + U32.pack(len(pieces)) + U32.pack(room))
        to.write(b"".join(U32.pack(len(piece)) for piece in pieces) + b"".join(pieces))
        to.flush()
        frames = []
        while U32.unpack(source.read(4))[0]:
            frames.append(source.read(U32.unpack(source.read(4))[0]))
        (result,) = U32.unpack(source.read(4))
        assert result in (DONE, BAD)
        if result == BAD:
            assert not frames, "a frame was refused after a part of it was emitted"
            return None
        return frames

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        return self._child.stdin, self._child.stdout

    def end(self) -> None:
        for pipe in self._pipes():
            pipe.close()
        assert self._child.wait() == 0


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    folder = tmp_path_factory.mktemp("offload")
    program = compile_program(
        folder, "offload", PROGRAM / "offload.c", Path(__file__).with_name("offload_harness.c")
    )
    running = Harness(program)
    yield running
    running.end()


def reference(header: bytes, frame: bytes) -> list[bytes] | None:
    try:
        return offload.complete(header, frame)
    except offload.OffloadError:
        return None


def cut(frame: bytes, places: list[int]) -> list[bytes]:
    """The frame in pieces, some of them empty."""
    ends = [*sorted(place % (len(frame) + 1) for place in places), len(frame)]
    return [frame[start:end] for start, end in zip([0, *ends], ends, strict=False)]


places = st.lists(st.integers(0, 70_000), max_size=6)


@st.composite
def headers_and_frames(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A frame that a driver would offload, and sometimes one field of it or of its header that does not fit."""
    ipv6, tcp = draw(st.booleans()), draw(st.booleans())
    tags = draw(
        st.sampled_from([b"", b"\x81\x00\x00\x64", b"\x88\xa8\x00\x64\x81\x00\x00\x07", b"\x91\x00\x00\x01"])
    )
    extension = (
        draw(st.sampled_from([0, 0, 8, 24, 1480, 1920, 2000]))
        if ipv6
        else draw(st.sampled_from([0, 0, 4, 40]))
    )
    doff = draw(st.integers(5, 15))
    payload = draw(st.binary(max_size=64)) * draw(st.sampled_from([1, 1, 5, 40, 1000]))
    if tcp:
        l4 = struct.pack(
            ">HHIIBBHHH",
            4000,
            80,
            draw(st.integers(0, 0xFFFFFFFF)),
            7,
            doff << 4,
            draw(st.integers(0, 255)),
            500,
            draw(st.integers(0, 0xFFFF)),
            0,
        ) + bytes(doff * 4 - 20)
    else:
        l4 = struct.pack(">HHHH", 4000, 53, 8, draw(st.integers(0, 0xFFFF)))
    protocol = 6 if tcp else 17
    if ipv6:
        following = (
            draw(st.binary(min_size=extension, max_size=extension)) if extension < 100 else bytes(extension)
        )
        l3 = struct.pack(">IHBB", 6 << 28, 0, 43 if extension else protocol, 64) + draw(
            st.binary(min_size=32, max_size=32)
        )
        l3 += following
    else:
        l3 = struct.pack(
            ">BBHHHBB", 0x45 + extension // 4, 0, 0, draw(st.integers(0, 0xFFFF)), 0, 64, protocol
        )
        l3 += bytes(10 + extension)
    ethernet = bytes(12) + tags + (b"\x86\xdd" if ipv6 else b"\x08\x00")
    frame = bytearray(ethernet + l3 + l4 + payload)
    gso = draw(st.sampled_from([0, 4 if ipv6 else 1, 4 if ipv6 else 1] if tcp else [0, 3, 5]))
    fields = [
        1,
        gso | (0x80 if tcp and draw(st.booleans()) else 0),
        draw(st.integers(0, 0xFFFF)),
        draw(st.sampled_from([0, 1, 7, 8, 48, 536, 1000, 1448, 65000, 65535])),
        len(ethernet) + len(l3),
        16 if tcp else 6,
    ]
    if draw(st.integers(0, 3)) == 0:
        which = draw(st.integers(0, len(fields) - 1))
        fields[which] = draw(st.integers(0, 255 if which < 2 else 0xFFFF))
    if draw(st.integers(0, 3)) == 0:
        frame[draw(st.integers(0, min(len(frame), 120) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 7)) == 0:
        del frame[draw(st.integers(0, len(frame) - 1)) :]
    return HEADER.pack(*fields), bytes(frame)


@given(headers_and_frames(), places, st.integers(0, 3))
def test_frames_of_drivers_are_completed_as_the_reference_does(
    harness: Harness, offered: tuple[bytes, bytes], places: list[int], room: int
) -> None:
    header, frame = offered
    assert harness.complete(header, cut(frame, places), room) == reference(header, frame)


@given(
    st.binary(max_size=200),
    st.builds(
        HEADER.pack,
        st.integers(0, 3),
        st.sampled_from([0, 1, 2, 3, 4, 5, 0x80, 0x81, 0x84, 0xFF]),
        st.integers(0, 0xFFFF),
        st.integers(0, 0xFFFF),
        st.integers(0, 220) | st.integers(0, 0xFFFF),
        st.integers(0, 220) | st.integers(0, 0xFFFF),
    ),
    places,
)
def test_any_bytes_are_treated_as_the_reference_does(
    harness: Harness, frame: bytes, header: bytes, places: list[int]
) -> None:
    assert harness.complete(header, cut(frame, places)) == reference(header, frame)


@pytest.mark.parametrize(
    ("l4", "payload", "size"),
    [
        (54, 65_000, 1448),  # a usual frame of a driver
        (54, offload.MAX_SEGMENTS * 48, 48),  # the most segments
        (54, offload.MAX_SEGMENTS * 48 + 1, 48),  # one more
        (54, 69_632 - 74, 60_000),  # the longest frame
        (54, 69_632 - 73, 60_000),  # one byte more
        (54, 65_535, 65_475),  # the longest segment: 65 535 bytes with its IPv6 header and TCP header
        (54, 65_535, 65_476),  # one byte more
        (offload.MAX_TRANSPORT_OFFSET, 100, 50),
        (offload.MAX_TRANSPORT_OFFSET + 1, 100, 50),
    ],
)
def test_bounds_are_those_of_the_reference(harness: Harness, l4: int, payload: int, size: int) -> None:
    extension = bytes(l4 - 54)
    network = struct.pack(">IHBB", 6 << 28, 0, 43, 64) + bytes(32) + extension
    transport = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x18, 5, 6, 0)
    frame = bytes(12) + b"\x86\xdd" + network + transport + bytes(range(256)) * (payload // 256 + 1)
    frame = frame[: l4 + 20 + payload]
    header = HEADER.pack(1, 4, 0, size, l4, 16)
    assert harness.complete(header, cut(frame, [60, 61, 4097])) == reference(header, frame)


def test_frame_in_too_many_pieces_is_refused(harness: Harness) -> None:
    frame = bytes(14) + b"\xff" * 2034
    header = HEADER.pack(1, 0, 0, 0, 14, 2)
    assert harness.complete(header, [frame[at : at + 1] for at in range(len(frame))]) == reference(
        header, frame
    )
    pieces = [*(frame[at : at + 1] for at in range(2046)), frame[2046:], b"longer"]
    assert harness.complete(HEADER.pack(1, 0, 0, 0, 14, 2036), pieces) is None

"""Whatever the peer of a filter's chardev says, it ends in whole frames of bounded size or in a FramingError."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.backend import BackendContext
from vnic.backend.framing import (
    LENGTH,
    MAX_FRAME_BYTES,
    Deframer,
    FramingError,
)
from vnic.chardev.table import Chardevs
from vnic.filter.port import Port
from vnic.monitor.schema import parse_flat_chardev
from vnic.net.network import Network


@pytest.fixture(scope="module")
def context() -> Iterator[BackendContext]:
    loop = asyncio.new_event_loop()
    chardevs = Chardevs()
    chardevs.add(parse_flat_chardev({"backend": "null", "id": "c0"}))
    yield BackendContext(loop, Network(loop), chardevs)
    loop.close()


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Something near to a frame behind a virtio header, as often as not with one wrong number."""
    offload = struct.pack(
        "<BBHHHH",
        draw(st.sampled_from([0, 1, 2, 255])),
        draw(st.sampled_from([0, 1, 3, 4, 5, 0x81, 77])),
        *(draw(st.integers(0, 80)) for _ in range(4)),
    )
    body = draw(st.sampled_from([b"", offload, offload + b"\1\0"])) + draw(st.binary(max_size=120))
    size = draw(st.sampled_from([0, 10, 12, draw(st.integers(0, 0xFFFFFFFF))]))
    length = draw(st.sampled_from([len(body), draw(st.integers(0, 0xFFFFFFFF))]))
    return LENGTH.pack(length) + LENGTH.pack(size) + body


@given(
    st.lists(messages() | st.binary(max_size=80), max_size=6).map(b"".join),
    st.lists(st.integers(1, 50)),
    st.booleans(),
)
def test_any_stream_gives_frames_or_framing_error(
    context: BackendContext, stream: bytes, cuts: list[int], vnet_hdr: bool
) -> None:
    got: list[bytes] = []
    port = Port(context, "c0", "f0", vnet_hdr=vnet_hdr, received=got.append)
    deframer = Deframer(LENGTH.size if vnet_hdr else 0)
    try:
        while stream:
            size = cuts.pop() if cuts else len(stream)
            deframer.feed(stream[:size])
            stream = stream[size:]
            while (frame := deframer.next()) is not None:
                if frame:
                    port.send(0, frame)
    except FramingError:
        pass
    finally:
        port.close()
    assert all(len(frame) <= MAX_FRAME_BYTES for frame in got)

"""The assembler that cuts a stream into messages and binds descriptors to them, alone and on real sockets."""

from __future__ import annotations

import array
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.vfio_user_device import is_open

from vnic.protocol.frames import FrameAssembler, FrameError, Message

HEADER = struct.Struct("<HH")  # a kind and the payload's size


def assembler(max_payload: int = 100, max_fds: int = 2) -> FrameAssembler:
    return FrameAssembler(4, lambda h: HEADER.unpack(h)[1], max_payload=max_payload, max_fds=max_fds)


def frame(kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def open_fd() -> int:
    return os.memfd_create("frames-test")


def test_wanted_never_crosses_message_boundary() -> None:
    frames = assembler()
    assert frames.wanted == 4
    assert frames.feed(frame(1, b"abc")[:3]) == []
    assert frames.wanted == 1
    assert frames.pending
    assert frames.feed(frame(1, b"abc")[3:4]) == []
    assert frames.wanted == 3
    assert frames.feed(b"abc") == [Message(frame(1, b"abc")[:4], b"abc")]
    assert frames.wanted == 4
    assert not frames.pending


def test_piece_may_hold_several_messages() -> None:
    piece = frame(1, b"abc") + frame(2) + frame(3, b"x")[:4]
    frames = assembler()
    first, second = frames.feed(piece)
    assert (first.payload, second.payload) == (b"abc", b"")
    assert frames.feed(b"x")[0].payload == b"x"


def test_descriptors_belong_to_message_with_last_byte() -> None:
    frames = assembler()
    fd = open_fd()
    first, second = frames.feed(frame(1) + frame(2), [fd])
    assert (first.fds, second.fds) == ([], [fd])
    second.close()
    fd = open_fd()
    assert frames.feed(frame(1, b"abc")[:2], [fd]) == []
    (message,) = frames.feed(frame(1, b"abc")[2:])
    assert message.take() == [fd]
    message.close()
    assert is_open(fd), "a descriptor that was taken is not closed with its message"
    os.close(fd)


@pytest.mark.parametrize(
    ("piece", "fds"),
    [(frame(1, bytes(101)), 1), (frame(1), 3), (frame(1)[:2], 3), (frame(1) + frame(2, bytes(101)), 2)],
    ids=["payload too long", "too many fds", "too many fds early", "a good message first"],
)
def test_frame_error_closes_all_descriptors(piece: bytes, fds: int) -> None:
    opened = [open_fd() for _ in range(fds)]
    with pytest.raises(FrameError):
        assembler().feed(piece, opened)
    assert not any(map(is_open, opened))


def test_close_drops_partial_message() -> None:
    frames, fd = assembler(), open_fd()
    frames.feed(b"\x01", [fd])
    frames.close()
    assert not is_open(fd)
    assert not frames.pending


def test_large_read_stops_after_bytes_with_descriptors() -> None:
    """What the class promises of Linux: a read stops behind the bytes that carried descriptors."""
    left, right = socket.socketpair()
    with left, right:
        for index in range(4):
            fds = [open_fd()] if index % 2 else []
            socket.send_fds(left, [frame(index, b"p" * index)], fds)
            for fd in fds:
                os.close(fd)
        frames = assembler()
        messages: list[Message] = []
        while len(messages) < 4:
            data, ancillary, _, _ = right.recvmsg(4096, socket.CMSG_LEN(8))
            received = array.array("i")
            for _, _, payload in ancillary:
                received.frombytes(payload)
            messages += frames.feed(data, received)
    assert [len(m.fds) for m in messages] == [0, 1, 0, 1]
    for message in messages:
        message.close()


@given(st.lists(st.binary(max_size=20), max_size=8), st.data())
def test_messages_do_not_depend_on_pieces(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frame(i, p) for i, p in enumerate(payloads))
    frames = assembler()
    messages: list[Message] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        messages += frames.feed(stream[:size])
        stream = stream[size:]
    assert [m.payload for m in messages] == payloads
    assert not frames.pending

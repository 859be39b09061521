"""QEMU's framing of Ethernet frames on stream sockets: 4 bytes of length, big-endian, then the frame.

`connection` and the filters' `port` use it. Sans-IO: bytes in, frames out, and the prefix for frames to send
(net/net.c: net_fill_rstate).
"""

from __future__ import annotations

import struct

from vnic.record import Record

MAX_FRAME_BYTES = 4096 + 65536
"""NET_BUFSIZE of QEMU's net.h. A peer that sends a larger length is broken or hostile."""
LENGTH = struct.Struct(">I")


class FramingError(Exception):
    """The peer's stream is invalid: close the connection."""


class DeframerRecord(Record, frozen=True):
    """What a Deframer was fed and has not given out."""

    rest: bytes


class Deframer:
    """Splits received bytes into frames.

    `extra` bytes lie between the length, which does not count them, and the frame; they are returned in front of the
    frame.
    """

    def __init__(self, extra: int = 0) -> None:
        self._extra = extra
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add received bytes. If the caller takes out all frames before the next call, at most one frame and one piece
        are kept."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    @property
    def waiting_bytes(self) -> int:
        """The bytes that were fed and not given out."""
        return len(self._buffer) - self._at

    def rest(self) -> bytes:
        """The half frame at the end of what was fed; nothing if the stream is invalid."""
        buffer, at = self._buffer, self._at
        while len(buffer) - at >= LENGTH.size:
            (size,) = LENGTH.unpack_from(buffer, at)
            if size > MAX_FRAME_BYTES:
                return b""
            end: int = at + LENGTH.size + self._extra + size
            if end > len(buffer):
                break
            at = end
        return bytes(memoryview(buffer)[at:])

    def save(self) -> DeframerRecord:
        return DeframerRecord(rest=bytes(memoryview(self._buffer)[self._at :]))

    def restore(self, record: DeframerRecord) -> None:
        """Give out these first."""
        self._buffer, self._at = bytearray(record.rest), 0

    def next(self) -> bytes | None:
        """The next whole frame, or None until more is fed. Empty frames are returned too, so that a flood of them
        counts against the reader's budget."""
        buffer, at = self._buffer, self._at
        if len(buffer) - at < LENGTH.size:
            return None
        (size,) = LENGTH.unpack_from(buffer, at)
        if size > MAX_FRAME_BYTES:
            raise FramingError(f"a frame of {size} bytes was announced, at most {MAX_FRAME_BYTES} are taken")
        end = at + LENGTH.size + self._extra + size
        if len(buffer) < end:
            return None
        self._at = end
        return bytes(memoryview(buffer)[at + LENGTH.size : end]) if size else b""

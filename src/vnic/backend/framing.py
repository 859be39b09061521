"""QEMU's framing of Ethernet frames on stream sockets: 4 bytes of length, big-endian, then the frame.

Sans-IO: bytes in, frames out, and the prefix for frames to be sent (net/net.c: net_fill_rstate).
"""

from __future__ import annotations

import struct

from vnic.record import Record

MAX_FRAME_BYTES = 4096 + 65536
"""NET_BUFSIZE of QEMU's net.h: what a longer length means is a broken or hostile peer."""
LENGTH = struct.Struct(">I")


class FramingError(Exception):
    """The peer's stream makes no sense any more: the connection has to be closed."""


class DeframerRecord(Record, frozen=True):
    """What a Deframer was fed and has not given out."""

    rest: bytes


class Deframer:
    """Collects what was read and cuts frames out of it.

    `extra` bytes stand between the length, which does not count them, and the frame; they come out in front of it.
    """

    def __init__(self, extra: int = 0) -> None:
        self._extra = extra
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what was read. At most one frame and the piece that was read are kept if frames are taken out
        until there are none before the next piece is fed."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def save(self) -> DeframerRecord:
        return DeframerRecord(rest=bytes(memoryview(self._buffer)[self._at :]))

    def restore(self, record: DeframerRecord) -> None:
        """Give out these first."""
        self._buffer, self._at = bytearray(record.rest), 0

    def next(self) -> bytes | None:
        """The next whole frame, or None until more is fed. An empty one carries nothing; it is given out, so that a
        flood of them costs a reader no more than its budget at once."""
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

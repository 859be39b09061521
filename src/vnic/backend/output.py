"""What waits for a stream's socket: frames that it had no room for, and the rest of one that is half written.

FramedConnection has a PlainOutput, or a KeptOutput if the process may be killed and another goes on.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final, Protocol

from vnic.backend.kept_stream import CHUNK_BYTES, KeptStream
from vnic.net.queue import Frame

_COMPACT_BYTES: Final = 512 * 1024
_JOINED_BYTES: Final = 64 * 1024
"""So many bytes of whole frames are one write."""


class Output(Protocol):
    """Both raise OSError if the connection is broken; a full socket is no error."""

    waiting: int
    """The bytes that wait."""

    def send(self, prefix: bytes, frame: Frame) -> None:
        """Write a frame behind its prefix, or let it wait."""

    def write(self) -> None:
        """The socket has room again."""

    def pending(self) -> bytes:
        """All that waits."""
        ...

    def set(self, data: bytes, *, kept: bool = False) -> None:
        """That waits, and nothing else; it may begin within a frame. `kept`: it is what KeptStream.take_up gave."""


class PlainOutput:
    """Loses what it has with the process."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._out = bytearray()
        self._at = 0
        self.waiting = 0

    def send(self, prefix: bytes, frame: Frame) -> None:
        size = len(prefix) + len(frame)
        done = 0
        if not self.waiting:
            try:
                done = self._sock.sendmsg((prefix, frame), (), socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                pass
            if done == size:
                return
            self._at = done
        self._out += prefix
        self._out += frame
        self.waiting += size - done

    def write(self) -> None:
        try:
            with memoryview(self._out) as view:
                done = self._sock.send(view[self._at :], socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return
        self._at += done
        self.waiting -= done
        if not self.waiting:
            self._out.clear()
            self._at = 0
        elif self._at >= _COMPACT_BYTES:
            del self._out[: self._at]
            self._at = 0

    def pending(self) -> bytes:
        return bytes(memoryview(self._out)[self._at :])

    def set(self, data: bytes, *, kept: bool = False) -> None:
        self._out, self._at, self.waiting = bytearray(data), 0, len(data)


class KeptOutput:
    """Keeps what is half written, so that a successor writes the rest. Whole frames that wait are lost."""

    def __init__(self, sock: socket.socket, kept: KeptStream) -> None:
        self._sock = sock
        self._kept = kept
        self._frames: deque[bytes] = deque()
        self._piece = b""
        self._at = 0
        self.waiting = 0

    def send(self, prefix: bytes, frame: Frame) -> None:
        size = len(prefix) + len(frame)
        if size > CHUNK_BYTES:
            return  # no peer takes a frame of that length
        if not self.waiting:
            if size <= self._kept.whole_bytes:
                try:
                    self._sock.sendmsg((prefix, frame), (), socket.MSG_NOSIGNAL)
                except (BlockingIOError, InterruptedError):
                    pass
                else:
                    return
            else:
                self._begin(prefix + bytes(frame))
                self._write_piece()
                return
        self._frames.append(prefix + bytes(frame))
        self.waiting += size

    def write(self) -> None:
        while self._piece or self._frames:
            if self._piece:
                if not self._write_piece():
                    return
            elif len(self._frames[0]) > self._kept.whole_bytes:
                joined = self._joined()
                self.waiting -= len(joined)
                self._begin(joined)
            else:
                try:
                    self._sock.send(self._frames[0], socket.MSG_NOSIGNAL)
                except (BlockingIOError, InterruptedError):
                    return
                self.waiting -= len(self._frames.popleft())

    def _joined(self) -> bytes:
        """The next frames, as many as go into one write."""
        frames, size = [self._frames.popleft()], 0
        while self._frames and size + len(self._frames[0]) <= _JOINED_BYTES - len(frames[0]):
            size += len(self._frames[0])
            frames.append(self._frames.popleft())
        return b"".join(frames)

    def _begin(self, piece: bytes) -> None:
        self._kept.begin_piece(piece)
        self._piece, self._at = piece, 0
        self.waiting += len(piece)

    def _write_piece(self) -> bool:
        """False: the socket is full."""
        self._kept.writing()
        done = 0
        try:
            with memoryview(self._piece) as view:
                done = self._sock.send(view[self._at :], socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        finally:
            self._kept.written(done)
        self._at += done
        self.waiting -= done
        if self._at < len(self._piece):
            return False
        self._piece, self._at = b"", 0
        return True

    def pending(self) -> bytes:
        return self._piece[self._at :] + b"".join(self._frames)

    def set(self, data: bytes, *, kept: bool = False) -> None:
        self._frames.clear()
        self._piece, self._at, self.waiting = data, 0, len(data)
        if not kept:
            self._kept.begin_piece(data)

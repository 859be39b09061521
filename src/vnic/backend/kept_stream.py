"""KeptStream: where a stream of frames stands, in memory that outlives this process, so that a successor goes on at the
very byte where this one was killed.

FramedConnection has one if there is a keep. What is kept is half a frame that was read, and half a frame that was
written. Each read and write is announced in that memory before it is done; the kernel knows whether it was done. Input
is peeked at first: SO_PEEK_OFF then tells how much of it was not yet taken (unix(7), socket(7); for TCP since Linux
6.9). Output on TCP: the kernel counts the bytes that were acknowledged and that wait (TCP_INFO, SIOCOUTQ). On a UNIX
socket a short write is done whole or not at all. Where the kernel does not know, and the process was killed in these
microseconds, the connection has to be closed: anything else might put the two ends out of step.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import socket
import struct
import termios
from contextlib import suppress
from typing import Final, NamedTuple

from vnic.backend.base import log
from vnic.backend.framing import LENGTH, MAX_FRAME_BYTES
from vnic.record import RecordError
from vnic.sockets.take_up import TakeUp

_SO_PEEK_OFF: Final = 42  # asm-generic/socket.h
_ACKED_AT: Final = 120
"""tcpi_bytes_acked of struct tcp_info (linux/tcp.h)."""
_COUNT: Final = struct.Struct("=Q")
_TRIES: Final = 10
"""Acknowledgements may come between two questions to the kernel."""

CHUNK_BYTES: Final = 2 * LENGTH.size + MAX_FRAME_BYTES
"""The most that is kept of either direction: the longest frame, its length, and the size of its virtio header."""
_AREA_BYTES: Final = CHUNK_BYTES + -CHUNK_BYTES % 8
_IN, _OUT, _BASE, _DATA = range(4)
"""The numbers at the start: state of the input, of the output, and the bytes that TCP had taken before; three areas of
data follow."""
MEMORY_BYTES: Final = 8 * _DATA + 3 * _AREA_BYTES

_LENGTH_BITS: Final = 24
_MASK: Final = (1 << _LENGTH_BITS) - 1
# The state of the input: the length of the rest, that of the announced one, which half has the rest, and whether
# another is announced. One store changes all of it.
_HALF: Final = 1 << 2 * _LENGTH_BITS
_ANNOUNCED: Final = 1 << 2 * _LENGTH_BITS + 1
# The state of the output: the length of the piece, how much of it is written, and whether a write is going on.
_WRITING: Final = 1 << 2 * _LENGTH_BITS

_ONE_SKB_BYTES: Final = 32768
"""A write up to this is one buffer of a UNIX socket, if its send buffer is not too small for that
(unix_stream_sendmsg)."""


class StreamFds(NamedTuple):
    """The descriptors of a connection that carries frames."""

    sock: int | None
    memory: int | None
    """That of its KeptStream."""


class OutOfStep(Exception):
    """Nobody knows where the stream stands. `str()` is the reason for the end of the connection."""


class Standing(NamedTuple):
    """Where the stream stands."""

    rest: bytes
    """Read, and not a whole frame."""
    output: bytes
    """The rest of what is half written."""


class KeptStream:
    """The memory of one connection at a time. `begin` or `take_up` comes first."""

    def __init__(self, fd: int) -> None:
        """`fd`: a file in memory, this object's. Raises OSError."""
        self.fd = fd
        if os.fstat(fd).st_size != MEMORY_BYTES:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        memory = memoryview(mmap.mmap(fd, MEMORY_BYTES))
        self._cells = memory[: _DATA * 8].cast("Q")
        at = _DATA * 8
        self._pieces = [memory[at + n * _AREA_BYTES : at + (n + 1) * _AREA_BYTES] for n in range(3)]
        self.whole_bytes = 0
        """The longest write that is done whole or not at all."""

    @classmethod
    def make(cls) -> KeptStream:
        """A new one. Raises OSError if there are no descriptors or there is no memory left."""
        fd = os.memfd_create("vnic-kept-stream", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, MEMORY_BYTES)
            return cls(fd)
        except OSError:
            os.close(fd)
            raise

    def close(self) -> None:
        """The memory is used no more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # -- the connection -----------------------------------------------------------------------------------------

    def begin(self, sock: socket.socket) -> None:
        """A new connection, or one that another program has used in between."""
        self._cells[_IN] = self._cells[_OUT] = 0
        self._cells[_BASE] = _bytes_written(sock) or 0
        self._use(sock)

    def _use(self, sock: socket.socket) -> None:
        if sock.family == socket.AF_UNIX:
            room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2 - 64
            self.whole_bytes = min(_ONE_SKB_BYTES, room)
        with suppress(OSError):  # `_was_taken` finds that out
            sock.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)

    def take_up(self, sock: socket.socket) -> Standing:
        """Go on with the connection of the process before. Raises OutOfStep.

        Killed at any point of this, a third process finds the same."""
        rest = self._rest(sock)
        length, at = self._written_of(sock)
        self.set_rest(rest)
        if at < length:
            self._cells[_OUT] = at << _LENGTH_BITS | length
        else:
            self._cells[_OUT] = 0
            self._cells[_BASE] = _bytes_written(sock) or 0
        self._use(sock)
        return Standing(rest, bytes(self._pieces[2][at:length]))

    def _rest(self, sock: socket.socket) -> bytes:
        state = self._cells[_IN]
        half, length = 1 if state & _HALF else 0, state & _MASK
        if state & _ANNOUNCED and _was_taken(sock):
            half, length = 1 - half, state >> _LENGTH_BITS & _MASK
        if length > CHUNK_BYTES:
            raise OutOfStep("its half-read frame is too long")
        return bytes(self._pieces[half][:length])

    def _written_of(self, sock: socket.socket) -> tuple[int, int]:
        """The length of the piece that is half written, and how much is."""
        state = self._cells[_OUT]
        length, at = state & _MASK, state >> _LENGTH_BITS & _MASK
        if length and state & _WRITING:
            now = _bytes_written(sock)
            if now is None:
                raise OutOfStep("vnic was killed while it wrote a frame")
            at = now - self._cells[_BASE]
        if not 0 <= at <= length <= CHUNK_BYTES:
            raise OutOfStep("its half-written frame is not what the kernel has counted")
        return length, at

    # -- input --------------------------------------------------------------------------------------------------

    def announce(self, rest: bytes | bytearray | memoryview) -> None:
        """What was peeked at is taken out next; `rest` is what is then read and not a whole frame."""
        state = self._cells[_IN]
        half = self._pieces[0 if state & _HALF else 1]
        half[: len(rest)] = rest
        self._cells[_IN] = state & (_HALF | _MASK) | len(rest) << _LENGTH_BITS | _ANNOUNCED

    def taken(self) -> None:
        """It was taken out."""
        state = self._cells[_IN]
        self._cells[_IN] = (state ^ _HALF) & _HALF | state >> _LENGTH_BITS & _MASK

    def set_rest(self, rest: bytes | bytearray | memoryview) -> None:
        """Nothing was taken out, and that is the rest."""
        self.announce(rest)
        self.taken()

    # -- output -------------------------------------------------------------------------------------------------

    def begin_piece(self, piece: bytes) -> None:
        """That is written next, with one or more writes; at most CHUNK_BYTES."""
        self._pieces[2][: len(piece)] = piece
        self._cells[_OUT] = len(piece)

    def writing(self) -> None:
        """A write of the piece's rest begins."""
        self._cells[_OUT] |= _WRITING

    def written(self, done: int) -> None:
        """It has ended, after so many bytes."""
        state = self._cells[_OUT]
        length = state & _MASK
        at = (state >> _LENGTH_BITS & _MASK) + done
        if at < length or not length:
            self._cells[_OUT] = at << _LENGTH_BITS | length
        else:
            self._cells[_OUT] = 0
            self._cells[_BASE] += length


def _was_taken(sock: socket.socket) -> bool:
    """Whether what was peeked at was taken out."""
    try:
        ahead = sock.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF)
    except OSError:
        ahead = -1
    if ahead < 0:
        raise OutOfStep("vnic was killed while it read half a frame")
    return ahead == 0


def _bytes_written(sock: socket.socket) -> int | None:
    """All bytes that TCP has taken from this end, from some number on. None: it is another socket, or unknown."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    waiting = array.array("i", [0])
    try:
        for _ in range(_TRIES):
            before = _acked(sock)
            fcntl.ioctl(sock, termios.TIOCOUTQ, waiting)
            if _acked(sock) == before:
                return before + waiting[0]
    except (OSError, struct.error):
        pass
    return None


def _acked(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + _COUNT.size)
    return int(_COUNT.unpack_from(info, _ACKED_AT)[0])


def new_kept_stream(name: str) -> KeptStream | None:
    """None, and a line in the log, if there are no descriptors or there is no memory left: the connection of `name`
    ends with this process then."""
    try:
        return KeptStream.make()
    except OSError as error:
        log.error("%s: its connection would not outlive vnic: %s", name, error.strerror)
        return None


def take_up_kept_stream(taking: TakeUp, fd: int | None) -> KeptStream | None:
    """That of the process before. Raises RecordError."""
    if fd is None:
        return None
    try:
        stream = KeptStream(fd)
    except (OSError, ValueError) as error:
        raise RecordError("", f"the memory of its stream is none: {error}") from None
    taking.owned((fd,), stream.close)
    return stream

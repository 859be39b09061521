"""The memory that a STREAM port shares with control, so that its connection outlives vnic-wire.

`ports` makes one for each stream that it lends. `program/protocol.h` has the layout (struct stream_memory).
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence
from typing import Final

from vnic.backend.framing import LENGTH, MAX_FRAME_BYTES

MAX_BYTES: Final = LENGTH.size + MAX_FRAME_BYTES
"""The most bytes that wait in one direction: the longest frame and its length."""
MEMORY_BYTES: Final = 217_088
_MAX_FRAMES: Final = 64
_TURNS: Final = struct.Struct("<II")
_SLOT: Final = struct.Struct(f"<4I56xI4x{_MAX_FRAMES}I")  # at, end, frames, -, the call's bytes, lengths
_IN_SLOTS: Final = 64
_OUT_SLOTS: Final = _IN_SLOTS + 2 * _SLOT.size
_IN_AT: Final = 4096
_OUT_AT: Final = _IN_AT + 2 * MAX_BYTES
assert _SLOT.size == 336


class StreamMemoryError(Exception):
    """What a dead program left is not a stream's state."""


class StreamMemory:
    """One file in memory. Only the owner and one program have it."""

    def __init__(self, fd: int | None = None) -> None:
        """`fd`: one that another process made, which is this one's from now on. Raises OSError if there are no
        descriptors or there is no memory left."""
        if fd is not None:
            self.fd = fd
            return
        self.fd = os.memfd_create("vnic-stream", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, MEMORY_BYTES)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        except OSError:
            self.close()
            raise

    def write(self, input: bytes, output: bytes) -> None:
        """The state to begin with: bytes that were read and not given out, and bytes not yet sent. Call it once.

        ValueError if one has more than MAX_BYTES; OSError if there is no memory left."""
        if max(len(input), len(output)) > MAX_BYTES:
            raise ValueError(f"{len(input)} and {len(output)} bytes, at most {MAX_BYTES} are taken")
        self._put(_IN_AT, input)
        self._put(_OUT_AT, output)
        for at, data in ((_IN_SLOTS, input), (_OUT_SLOTS, output)):
            self._put(at, _SLOT.pack(0, len(data), 0, 0, 0, *[0] * _MAX_FRAMES))

    def read(self) -> tuple[bytes, bytes]:
        """The state as it is now, in the order of `write`. The program must have ended, or returned the port.

        A frame of which it had sent a part, and not kept the rest, is completed with zeros. Raises StreamMemoryError or
        OSError."""
        in_turn, out_turn = _TURNS.unpack(self._get(0, _TURNS.size))
        return self._input(self._slot(_IN_SLOTS, in_turn)), self._output(self._slot(_OUT_SLOTS, out_turn))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _slot(self, slots: int, turn: int) -> tuple[int, ...]:
        _require(turn in (0, 1), f"turn {turn}")
        return _SLOT.unpack(self._get(slots + turn * _SLOT.size, _SLOT.size))

    def _input(self, slot: Sequence[int]) -> bytes:
        at, end, _, _, done = slot[:5]
        _require(
            at <= end and end + done <= 2 * MAX_BYTES and end + done - at <= MAX_BYTES,
            f"input from {at} to {end} and {done}",
        )
        return self._get(_IN_AT + at, end + done - at)

    def _output(self, slot: Sequence[int]) -> bytes:
        at, end, frames, _, done, *lengths = slot
        if not frames:
            _require(at + done <= end <= MAX_BYTES, f"output from {at} and {done} to {end}")
            return self._get(_OUT_AT + at + done, end - at - done)
        _require(frames <= _MAX_FRAMES, f"{frames} frames")
        for length in lengths[:frames]:
            _require(length <= MAX_FRAME_BYTES, f"a frame of {length} bytes")
            if done < LENGTH.size + length:
                return bytes(LENGTH.pack(length) + bytes(length))[done:] if done else b""
            done -= LENGTH.size + length
        _require(done == 0, f"{done} bytes sent beyond all frames")
        return b""

    def _put(self, at: int, data: bytes) -> None:
        if os.pwrite(self.fd, data, at) != len(data):
            raise OSError("a short write")

    def _get(self, at: int, size: int) -> bytes:
        data = os.pread(self.fd, size, at)
        _require(len(data) == size, f"{len(data)} bytes of {size}")
        return data


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise StreamMemoryError(what)

"""The format of the entries in a RecordStore's log, and how they are read from memory that may be damaged.

An entry is a head, the key, the data, and a tail that repeats the head, so that a damaged entry still has a name. Both
have a mark that no key and no UTF-8 text contains. They also have the log's generation and their place in it, so that
an entry of another place or time is damaged, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

Buffer = bytes | bytearray | memoryview

ALIGNMENT: Final = 8
KEY_MAX_BYTES: Final = 512
DATA_MAX_BYTES: Final = 1 << 28

_END: Final = struct.Struct("<4sHHIIQII")
"""Mark, bytes of the key, flags, bytes of the data, crc32 of key and data, place, generation, crc32 of all these and
the key."""
_HEAD_MARK: Final = b"\xffKE\xfe"
_TAIL_MARK: Final = b"\xfeKE\xff"
_REMOVED: Final = 1
assert _END.size == 32


class Entry(NamedTuple):
    """One entry of a log."""

    key: str
    """ "" if the damage left no name."""
    start: int
    """Where its data begin in the log."""
    size: int
    removed: bool
    damaged: bool


def pad(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def size_of(key: bytes, data_bytes: int) -> int:
    """The bytes of a whole entry."""
    return _END.size + pad(len(key)) + pad(data_bytes) + _END.size + pad(len(key))


def data_start(at: int, key: bytes) -> int:
    """Where the data of the entry at `at` begin."""
    return at + _END.size + pad(len(key))


def write(log: memoryview, generation: int, at: int, key: bytes, data: Buffer | None) -> int:
    """Write the entry at `at`, where there is room; None removes the key. Returns the end of the entry."""
    content = b"" if data is None else data
    start = data_start(at, key)
    foot = start + pad(len(content))
    fields = (
        len(key),
        0 if data is not None else _REMOVED,
        len(content),
        crc32(content, crc32(key)),
        at,
        generation,
    )
    log[at : at + _END.size] = _end(_HEAD_MARK, fields, key)
    log[at + _END.size : at + _END.size + len(key)] = key
    log[start : start + len(content)] = content
    log[foot : foot + _END.size] = _end(_TAIL_MARK, fields, key)
    log[foot + _END.size : foot + _END.size + len(key)] = key
    return foot + _END.size + pad(len(key))


def _end(mark: bytes, fields: tuple[int, ...], key: bytes) -> bytes:
    return _END.pack(mark, *fields, crc32(key, crc32(_END.pack(mark, *fields, 0))))


class _Read(NamedTuple):
    """A head or tail that is intact."""

    at: int
    """Where its entry begins."""
    key: bytes
    size: int
    crc: int
    removed: bool

    @property
    def start(self) -> int:
        return data_start(self.at, self.key)

    @property
    def after(self) -> int:
        return self.at + size_of(self.key, self.size)


def _read(log: memoryview, generation: int, place: int, mark: bytes) -> _Read | None:
    """The head or tail at `place`, if one is there and is intact."""
    if place + _END.size > len(log) or log[place : place + 4] != mark:
        return None
    fields = _END.unpack(log[place : place + _END.size])
    _, key_bytes, flags, size, crc, at, of, _ = fields
    key = bytes(log[place + _END.size : place + _END.size + key_bytes])
    if key_bytes > KEY_MAX_BYTES or size > DATA_MAX_BYTES or len(key) != key_bytes:
        return None
    if of != generation or log[place : place + _END.size] != _end(mark, fields[1:-1], key):
        return None
    expected = at if mark == _HEAD_MARK else data_start(at, key) + pad(size)
    return _Read(at, key, size, crc, bool(flags & _REMOVED)) if place == expected else None


def read_all(log: memoryview, generation: int) -> Iterator[Entry]:
    """All entries, in order. One that is damaged is named if its head or its tail is intact; behind damage the next
    intact entry is searched."""
    at = 0
    while at < len(log):
        head = _read(log, generation, at, _HEAD_MARK)
        if head is not None and head.after <= len(log):
            yield _checked(log, head)
            at = head.after
            continue
        following, name = _after_damage(log, generation, at)
        yield Entry(name, at, 0, False, True)
        at = following


def _checked(log: memoryview, head: _Read) -> Entry:
    content = log[head.start : head.start + head.size]
    intact = crc32(content, crc32(head.key)) == head.crc
    return Entry(head.key.decode("utf-8", "replace"), head.start, head.size, head.removed, not intact)


def _after_damage(log: memoryview, generation: int, damaged: int) -> tuple[int, str]:
    """Where the log goes on after the entry at `damaged`, whose head is lost, and its key if its tail is intact."""
    for place in range(damaged + ALIGNMENT, len(log), ALIGNMENT):
        tail = _read(log, generation, place, _TAIL_MARK)
        if tail is not None and tail.at >= damaged:
            name = tail.key.decode("utf-8", "replace") if tail.at == damaged else ""
            return tail.after, name
        if _read(log, generation, place, _HEAD_MARK) is not None:
            return place, ""
    return len(log), ""

"""RecordStore: named blocks of bytes in shared memory that outlive the process, changed by atomic transactions.

`Keep` puts the records of units into one, and the keeper holds its memfd. A transaction appends entries to a log and
then moves the log's end by one aligned store of eight bytes: a process that is killed at any instruction leaves either
all of a transaction or nothing of it. A log that is full is continued in the other of two halves, with only the entries
that are still valid. Cells are plain numbers beside the log, which their owner writes directly.

The memory may come from another process: every length is checked, and what is damaged is named, never used.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from collections.abc import Mapping
from typing import Final
from zlib import crc32

from vnic.descriptors import seals_of
from vnic.state import entries
from vnic.state.cells import CellSpace

MAGIC: Final = int.from_bytes(b"vnickeep", "little")
FORMAT: Final = 1
HEADER_BYTES: Final = 4096
FIRST_HALF_BYTES: Final = 1 << 18
MOST_BYTES: Final = 1 << 30
"""Of one half: a store that would need more refuses the transaction."""

_F_ADD_SEALS: Final = 1033
_F_SEAL_SHRINK: Final = 2
_MAGIC, _FORMAT, _STATE, _COUNTER, _HALVES = range(5)
"""Words of the header; each half has two, its offset and its size in the file, each with a check."""
_HEADER_WORDS: Final = 16

_PLACE_BITS: Final = 40
_CELLS: Final = "cells/"


class StoreError(Exception):
    """The store cannot be used, or cannot take a transaction; the text says why."""


class RecordStore:
    """The store in a memfd. One process uses it at a time."""

    def __init__(self, fd: int, *, fresh: bool) -> None:
        """Use `make` or `open`."""
        self.fd = fd
        self.refused: dict[str, str] = {}
        """The keys that were damaged when it was opened, and what is wrong."""
        self._header = _map(fd, 0, HEADER_BYTES).cast("Q")
        self._places: dict[str, tuple[int, int]] = {}
        """Key → where its data begin in the log, and their size."""
        self._live = 0
        """The bytes of the entries in `_places`."""
        self._half = self._end = 0
        if fresh:
            self._header[_FORMAT] = FORMAT
            self._log = self._new_log(0, FIRST_HALF_BYTES)
            self._set_state(0, 0)
            self._header[_MAGIC] = MAGIC
        else:
            self._log = self._check()
            self._read()
        self._cell_space = CellSpace(fd, self._cells_in_use())

    # -- making and opening -------------------------------------------------------------------------------------

    @classmethod
    def make(cls, first_number: int = 0) -> RecordStore:
        """An empty store in a new memfd, which is the store's own; `next_number` begins there. Raises OSError."""
        fd = os.memfd_create("vnic-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, HEADER_BYTES)
            fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SHRINK)
            store = cls(fd, fresh=True)
            store._header[_COUNTER] = first_number
            return store
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, fd: int) -> RecordStore:
        """The store of the process before, whose descriptor is the store's own then. Raises StoreError, and leaves the
        descriptor to the caller, if it is no store or its header is damaged."""
        seals = seals_of(fd)
        if seals is None or not seals & _F_SEAL_SHRINK or not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StoreError("it is no sealed memory file")
        if os.fstat(fd).st_size < HEADER_BYTES:
            raise StoreError("it is cut off")
        return cls(fd, fresh=False)

    def close(self) -> None:
        """Release the memory. The content stays, for whoever else has the file."""
        os.close(self.fd)

    def discard(self) -> None:
        """Make the content invalid: no other process opens it again."""
        self._header[_MAGIC] = 0

    # -- content ------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The keys that have data."""
        return [key for key in self._places if not key.startswith(_CELLS)]

    def get(self, key: str) -> bytes | None:
        place = self._places.get(key)
        return None if place is None else bytes(self._log[place[0] : place[0] + place[1]])

    def commit(self, changes: Mapping[str, bytes | None]) -> None:
        """Set or remove (None) the data of these keys, all at once. Raises StoreError if they are too large; then
        nothing has changed."""
        wanted = [(key, key.encode(), data) for key, data in changes.items() if self._differs(key, data)]
        if not wanted:
            return
        size = 0
        for key, name, data in wanted:
            if len(name) > entries.KEY_MAX_BYTES:
                raise StoreError(f"the key {key[:32]!a}… is too long")
            if data is not None and len(data) > entries.DATA_MAX_BYTES:
                raise StoreError(f"{key} is too large ({len(data)} bytes)")
            size += entries.size_of(name, 0 if data is None else len(data))
        if self._end + size > len(self._log):
            self._change_halves(size)
        at = self._end
        places = []
        for key, name, data in wanted:
            places.append((key, None if data is None else (entries.data_start(at, name), len(data))))
            at = entries.write(self._log, at, name, data)
        self._set_state(self._half, at)
        for key, place in places:
            self._put(key, place)

    def _differs(self, key: str, data: bytes | None) -> bool:
        return key in self._places if data is None else self.get(key) != data

    def _put(self, key: str, place: tuple[int, int] | None) -> None:
        """Enter the place of a key's newest entry."""
        before = self._places.pop(key, None)
        if before is not None:
            self._live -= entries.size_of(key.encode(), before[1])
        if place is not None:
            self._places[key] = place
            self._live += entries.size_of(key.encode(), place[1])

    def next_number(self) -> int:
        """A number that this store has never given before, and none of its processes will give again."""
        number: int = self._header[_COUNTER]
        self._header[_COUNTER] = number + 1
        return number

    # -- cells --------------------------------------------------------------------------------------------------

    def cells(self, key: str) -> memoryview | None:
        """The cells of a key, None if there are none."""
        place = self._places.get(_CELLS + key)
        if place is None:
            return None
        at, count = _cell_place(self.get(_CELLS + key) or b"")
        return self._cell_space.view(at, count)

    def make_cells(self, key: str, count: int) -> memoryview:
        """`count` cells of 64 bits for a key that has none, all 0. Raises StoreError."""
        try:
            at = self._cell_space.take(count)
        except OSError as error:
            raise StoreError(f"no memory for cells: {error.strerror}") from None
        view = self._cell_space.view(at, count)
        for index in range(count):
            view[index] = 0
        self.commit({_CELLS + key: b"%d %d" % (at, count)})
        return view

    def free_cells(self, key: str) -> None:
        """Give the cells of a key back; views of them must not be used any more."""
        data = self.get(_CELLS + key)
        if data is not None:
            self.commit({_CELLS + key: None})
            self._cell_space.free(*_cell_place(data))

    def cell_keys(self) -> list[str]:
        return [key.removeprefix(_CELLS) for key in self._places if key.startswith(_CELLS)]

    def _cells_in_use(self) -> dict[int, int]:
        """First byte → count, of all cells. Cells that overlap others are refused."""
        size = os.fstat(self.fd).st_size
        found: dict[int, int] = {}
        end = 0
        for at, count, key in sorted(
            (*_cell_place(self.get(_CELLS + key) or b""), key) for key in self.cell_keys()
        ):
            if at < end or not CellSpace.fits(at, count, size):
                self.refused[key] = "its cells are outside of the store"
                self._put(_CELLS + key, None)
            else:
                found[at] = count
                end = at + 8 * count
        return found

    # -- header -------------------------------------------------------------------------------------------------

    def _set_state(self, half: int, end: int) -> None:
        """The half in use and the end of its log, in one store."""
        self._half, self._end = half, end
        self._header[_STATE] = _with_check(half << (_PLACE_BITS - 1) | end)

    def _check(self) -> memoryview:
        """The log in use. Raises StoreError."""
        if self._header[_MAGIC] != MAGIC:
            raise StoreError("it is no store, or it was given up")
        if self._header[_FORMAT] != FORMAT:
            raise StoreError(f"its format is {self._header[_FORMAT]}, not {FORMAT}")
        state = _checked(self._header[_STATE], "state")
        self._half, self._end = state >> (_PLACE_BITS - 1), state & ((1 << (_PLACE_BITS - 1)) - 1)
        log = self._known_log(self._half)
        if self._end > len(log):
            raise StoreError("its header is damaged: state")
        return log

    def _known_log(self, half: int) -> memoryview:
        """The memory of a half as the header has it. Raises StoreError."""
        offset = _checked(self._header[_HALVES + 2 * half], "offset")
        size = _checked(self._header[_HALVES + 2 * half + 1], "size")
        if not offset or offset % mmap.ALLOCATIONGRANULARITY or not 0 < size <= MOST_BYTES:
            raise StoreError("its header is damaged: offset")
        if offset + size > os.fstat(self.fd).st_size:
            raise StoreError("it is cut off")
        return _map(self.fd, offset, size)

    def _read(self) -> None:
        """Enter all entries of the log. If one is damaged and has no name, all that came before it may be out of date
        and are refused, except where a later entry follows."""
        for entry in entries.read_all(self._log[: self._end]):
            if entry.damaged and not entry.key:
                for key in self._places:
                    self.refused[key] = "its record may be out of date, an entry of the store is damaged"
                self._places.clear()
                self._live = 0
            elif entry.damaged:
                self.refused[entry.key] = "its record is damaged"
                self._put(entry.key, None)
            else:
                self.refused.pop(entry.key, None)
                self._put(entry.key, None if entry.removed else (entry.start, entry.size))

    def _new_log(self, half: int, size: int) -> memoryview:
        """Memory for a half that is not in use, at the end of the file. Raises StoreError."""
        offset = os.fstat(self.fd).st_size
        offset += -offset % mmap.ALLOCATIONGRANULARITY
        try:
            os.ftruncate(self.fd, offset + size)
            log = _map(self.fd, offset, size)
        except OSError as error:
            raise StoreError(f"no memory for {size} bytes: {error.strerror}") from None
        self._header[_HALVES + 2 * half] = _with_check(offset)
        self._header[_HALVES + 2 * half + 1] = _with_check(size)
        return log

    def _change_halves(self, more: int) -> None:
        """Continue the log in the other half, with room for `more` bytes. Raises StoreError. It costs as much as all
        entries, and comes only after at least as many bytes were written."""
        size = max(FIRST_HALF_BYTES, 1 << (2 * (self._live + more) - 1).bit_length())
        if size > MOST_BYTES:
            raise StoreError(f"the state is too large ({self._live + more} bytes)")
        before, half = self._log, 1 - self._half
        log = self._other_log(half, size)
        at = 0
        places = {}
        for key, (start, length) in self._places.items():
            name = key.encode()
            places[key] = (entries.data_start(at, name), length)
            at = entries.write(log, at, name, before[start : start + length])
        self._log, self._places = log, places
        self._set_state(half, at)
        before.release()

    def _other_log(self, half: int, size: int) -> memoryview:
        """Memory of at least `size` bytes for the half that is not in use: its own, or new one. Raises StoreError."""
        try:
            log = self._known_log(half)
        except StoreError:
            return self._new_log(half, size)  # it had none yet
        if len(log) >= size:
            return log
        _free(log)
        return self._new_log(half, size)


def _cell_place(data: bytes) -> tuple[int, int]:
    at, _, count = data.partition(b" ")
    return (int(at), int(count)) if at.isdigit() and count.isdigit() and len(data) < 32 else (0, 0)


def _with_check(value: int) -> int:
    """A word of the header: the value in its low bits, and a check of it."""
    return value | (crc32(value.to_bytes(8, "little")) & 0xFF_FFFF) << _PLACE_BITS


def _checked(word: int, name: str) -> int:
    value = word & ((1 << _PLACE_BITS) - 1)
    if word != _with_check(value):
        raise StoreError(f"its header is damaged: {name}")
    return value


def _map(fd: int, offset: int, size: int) -> memoryview:
    return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset))


def _free(log: memoryview) -> None:
    """Give the memory of a half back, which is not in use and becomes another one."""
    memory = log.obj
    assert isinstance(memory, mmap.mmap)
    log.release()
    memory.madvise(mmap.MADV_REMOVE)
    memory.close()

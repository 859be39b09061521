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
MOST_BYTES: Final = 1 << 29
"""Of one half: a store that would need more refuses the transaction."""

_F_ADD_SEALS: Final = 1033
_F_SEAL_SHRINK: Final = 2
_MAGIC, _FORMAT, _STATE, _COUNTER, _HALVES = range(5)
"""Words of the header; each half has two, its offset and its size in the file. Words from `_STATE` have a check."""

_VALUE_BITS: Final = 40
"""Of a word with a check."""
_END_BITS: Final = 28
"""Of the state: the end of the log in units of 8 bytes; above it, the generation, which counts the changes of halves.
Its lowest bit says which half is in use."""
_GENERATIONS: Final = 1 << (_VALUE_BITS - _END_BITS)
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
        self._damaged = False
        """There is a damaged entry; the next commit leaves it behind."""
        self._generation = self._end = self._number = 0
        if fresh:
            self._header[_FORMAT] = FORMAT
            self._set_word(_COUNTER, 0)
            self._log = self._new_log(0, FIRST_HALF_BYTES)
            self._set_state(0, 0)
            self._header[_MAGIC] = MAGIC
        else:
            self._log = self._check()
            self._read()
        self._cell_space = CellSpace(fd, self._cells_in_use())

    # -- making and opening -------------------------------------------------------------------------------------

    @classmethod
    def make(cls) -> RecordStore:
        """An empty store in a new memfd, which is the store's own. Raises OSError, StoreError."""
        fd = os.memfd_create("vnic-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, HEADER_BYTES)
            fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SHRINK)
            return cls(fd, fresh=True)
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
        if self._end + size > len(self._log) or self._damaged:
            self._change_halves(size)
        at = self._end
        places = []
        for key, name, data in wanted:
            places.append((key, None if data is None else (entries.data_start(at, name), len(data))))
            at = entries.write(self._log, self._generation, at, name, data)
        self._set_state(self._generation, at)
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
        number = self._number
        self._number = number + 1
        self._set_word(_COUNTER, self._number)
        return number

    def numbers_from(self, first: int) -> None:
        """Numbers below `first` are in use, whatever the store says."""
        self._number = max(self._number, first)

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
                self._refuse(_CELLS + key, "its place is invalid")
            else:
                found[at] = count
                end = at + 8 * count
        return found

    # -- header -------------------------------------------------------------------------------------------------

    def _set_word(self, word: int, value: int) -> None:
        self._header[word] = _with_check(word, value)

    def _word(self, word: int, name: str) -> int:
        """Raises StoreError."""
        value: int = self._header[word] & ((1 << _VALUE_BITS) - 1)
        if self._header[word] != _with_check(word, value):
            raise StoreError(f"its header is damaged: {name}")
        return value

    def _set_state(self, generation: int, end: int) -> None:
        """The half in use and the end of its log, in one store."""
        self._generation, self._end = generation, end
        self._set_word(_STATE, generation << _END_BITS | end // entries.ALIGNMENT)

    def _check(self) -> memoryview:
        """The log in use. Raises StoreError."""
        if self._header[_MAGIC] != MAGIC:
            raise StoreError("it is no store, or it was given up")
        if self._header[_FORMAT] != FORMAT:
            raise StoreError(f"its format is {self._header[_FORMAT]}, not {FORMAT}")
        state = self._word(_STATE, "state")
        self._number = self._word(_COUNTER, "counter")
        self._generation = state >> _END_BITS
        self._end = (state & ((1 << _END_BITS) - 1)) * entries.ALIGNMENT
        log = self._known_log(self._generation & 1)
        if self._end > len(log):
            raise StoreError("its header is damaged: state")
        return log

    def _known_log(self, half: int) -> memoryview:
        """The memory of a half as the header has it. Raises StoreError."""
        offset = self._word(_HALVES + 2 * half, "offset")
        size = self._word(_HALVES + 2 * half + 1, "size")
        if not offset or offset % mmap.ALLOCATIONGRANULARITY or not 0 < size <= MOST_BYTES:
            raise StoreError("its header is damaged: offset")
        if offset + size > os.fstat(self.fd).st_size:
            raise StoreError("it is cut off")
        return _map(self.fd, offset, size)

    def _read(self) -> None:
        """Enter all entries of the log. If one is damaged and has no name, all that came before it may be out of date
        and are refused, except where a later entry follows."""
        for entry in entries.read_all(self._log[: self._end], self._generation):
            self._damaged = self._damaged or entry.damaged
            if entry.damaged and not entry.key:
                for key in list(self._places):
                    self._refuse(key, "it may be out of date, an entry of the store is damaged")
            elif entry.damaged:
                self._refuse(entry.key, "it is damaged")
            else:
                self.refused.pop(entry.key, None)
                self._put(entry.key, None if entry.removed else (entry.start, entry.size))

    def _refuse(self, key: str, why: str) -> None:
        self.refused[key] = why
        self._put(key, None)

    def _new_log(self, half: int, size: int) -> memoryview:
        """Memory for a half that is not in use, at the end of the file. Raises StoreError."""
        offset = os.fstat(self.fd).st_size
        offset += -offset % mmap.ALLOCATIONGRANULARITY
        try:
            os.ftruncate(self.fd, offset + size)
            log = _map(self.fd, offset, size)
        except OSError as error:
            raise StoreError(f"no memory for {size} bytes: {error.strerror}") from None
        self._set_word(_HALVES + 2 * half, offset)
        self._set_word(_HALVES + 2 * half + 1, size)
        return log

    def _change_halves(self, more: int) -> None:
        """Continue the log in the other half, with room for `more` bytes. Raises StoreError. It costs as much as all
        entries, and comes only after at least as many bytes were written."""
        size = max(FIRST_HALF_BYTES, 1 << (2 * (self._live + more) - 1).bit_length())
        if size > MOST_BYTES:
            raise StoreError(f"the state is too large ({self._live + more} bytes)")
        before, generation = self._log, (self._generation + 1) % _GENERATIONS
        log = self._other_log(generation & 1, size)
        at = 0
        places = {}
        for key, (start, length) in self._places.items():
            name = key.encode()
            places[key] = (entries.data_start(at, name), length)
            at = entries.write(log, generation, at, name, before[start : start + length])
        self._log, self._places, self._damaged = log, places, False
        self._set_state(generation, at)
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


def _with_check(word: int, value: int) -> int:
    """A word of the header: the value in its low bits, and a check of it and of its place."""
    return value | (crc32(value.to_bytes(8, "little"), word) & 0xFF_FFFF) << _VALUE_BITS


def _map(fd: int, offset: int, size: int) -> memoryview:
    return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset))


def _free(log: memoryview) -> None:
    """Give the memory of a half back, which is not in use and becomes another one."""
    memory = log.obj
    assert isinstance(memory, mmap.mmap)
    log.release()
    memory.madvise(mmap.MADV_REMOVE)
    memory.close()

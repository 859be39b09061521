"""Mappings of guest memory, counted (`address_space`) and registered with `sigbus` for as long as they exist.

`memory.guest` and `memory.shadow` make one for each region. A mapping ends when it is closed and its last view is
released.
"""

from __future__ import annotations

import mmap
from typing import Self

from vnic.memory import sigbus
from vnic.memory.address_space import SPACE

_MAP_NORESERVE = 0x4000  # linux/mman.h; mmap.MAP_NORESERVE from Python 3.13 on


class GuestMapping(mmap.mmap):
    """One mapping; `of_file` or `private` make it.

    Every write to guest memory uses one of two operations: `mapping[start:stop] = data` (mmap's) for buffers and
    descriptors, and `view(start, stop)[index] = value` for the words of a ring. Neither calls Python code. To count
    writes (dirty page logging), set the mapping's class to a subclass that overrides both, and call
    `GuestMemory.replace_views`: rings then make new views.
    """

    _area: sigbus.Area | None = None
    _counted = 0

    @classmethod
    def of_file(cls, fd: int, start: int, size: int, *, page: int, writable: bool) -> Self:
        """Map `size` bytes of a file with pages of `page` bytes, from offset `start`, shared. Raises NoRoom and
        mmap's errors."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapping = cls._make(size, fd, mmap.MAP_SHARED, protection, start)
        address = sigbus.address_of(mapping)
        mapped = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        mapping._area = sigbus.Area(address, address + mapped, page)
        sigbus.watch(mapping._area)
        return mapping

    @classmethod
    def private(cls, size: int) -> Self:
        """Map zeros that take memory only where they are touched. Raises NoRoom and mmap's errors."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        return cls._make(size, -1, flags, mmap.PROT_READ | mmap.PROT_WRITE, 0)

    @classmethod
    def _make(cls, size: int, fd: int, flags: int, protection: int, start: int) -> Self:
        SPACE.take(size)
        try:
            mapping = cls(fd, size, flags, protection, offset=start)
        except BaseException:
            SPACE.give_back(size)
            raise
        mapping._counted = size
        return mapping

    def view(self, start: int, stop: int) -> memoryview:
        """A live view of these bytes; writes to it change the memory."""
        return memoryview(self)[start:stop]

    @property
    def lost(self) -> bool:
        """Whether an access failed, so that zeros replaced the mapping."""
        return self._area is not None and self._area.lost

    def close(self) -> None:
        """Unmap. Raises BufferError while there are views; the release of the last one then unmaps."""
        if self._area is not None:
            sigbus.forget(self._area)  # first: after the unmap, another mapping may use the addresses
        try:
            super().close()
        except BufferError:
            if self._area is not None:
                sigbus.watch(self._area)
            raise
        self._uncount()

    def __del__(self) -> None:
        """Runs before the memory is unmapped."""
        if self._area is not None:
            sigbus.forget(self._area)
        self._uncount()

    def _uncount(self) -> None:
        if self._counted:
            SPACE.give_back(self._counted)
            self._counted = 0

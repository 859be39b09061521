"""Guest memory mapped into this process: only of files whose pages cannot make an access wait for a stranger.

`memory.guest` and `memory.shadow` make one for each region. It is counted (`address_space`) and known to `sigbus` for
exactly as long as it is mapped, which is until it is closed and no ring views its bytes any more.
"""

from __future__ import annotations

import mmap
from typing import Self

from vnic.memory import sigbus
from vnic.memory.address_space import SPACE

_MAP_NORESERVE = 0x4000  # linux/mman.h; mmap.MAP_NORESERVE from Python 3.13 on


class GuestMapping(mmap.mmap):
    """One mapping; `of_file` or `private` make it.

    All that vnic writes to a guest's memory passes here, by one of two ways: `mapping[start:stop] = data`, which is
    mmap's own, for buffers and descriptors, and `view(start, stop)[index] = value` for the words of a ring. Nothing is
    called for either while nobody counts the writes. Whoever does (to log dirty pages) gives the mapping the class of
    a subclass that overrides both, and tells that the memory changed (`GuestMemory.replace_views`): rings then view it
    anew.
    """

    _area: sigbus.Area | None = None
    _counted = 0

    @classmethod
    def of_file(cls, fd: int, start: int, size: int, *, page: int, writable: bool) -> Self:
        """Share `size` bytes of a file, which has pages of `page` bytes, from `start` on. Raises NoRoom, and what
        mmap raises."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapping = cls._make(size, fd, mmap.MAP_SHARED, protection, start)
        address = sigbus.address_of(mapping)
        mapped = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        mapping._area = sigbus.Area(address, address + mapped, page)
        sigbus.watch(mapping._area)
        return mapping

    @classmethod
    def private(cls, size: int) -> Self:
        """Zeros, backed by the kernel where they are touched. Raises NoRoom, and what mmap raises."""
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
        """A live view of these bytes, to be written through."""
        return memoryview(self)[start:stop]

    @property
    def lost(self) -> bool:
        """An access failed, and zeros have taken its place."""
        return self._area is not None and self._area.lost

    def close(self) -> None:
        """Unmap. Raises BufferError while its bytes are viewed; it goes with the last view then."""
        if self._area is not None:
            sigbus.forget(self._area)  # first: once unmapped, the addresses may be another mapping's
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

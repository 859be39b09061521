"""A guest's memory as a device sees it: regions of files, mapped into this process and found by guest address.

The attachments (vhost-user's memory table, vfio-user's DMA_MAP) add and remove regions; rings and device models
look up ranges. All values from the guest are checked here: a range that is not completely inside mapped regions
raises GuestMemoryError and changes nothing.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from vnic.descriptors import seals_of
from vnic.memory.address_space import SPACE, NoRoom
from vnic.memory.mapping import GuestMapping

ADDRESS_LIMIT = 1 << 64
MAX_REGIONS = 512
"""More than any client uses (QEMU: 509 vhost-user slots), few enough that one guest cannot use up our fds."""

Span = tuple[GuestMapping, int, int]
"""Bytes [start, stop) of a mapping: a guest range after its check."""


class GuestMemoryError(Exception):
    """A region is refused, or an address range is outside of the guest's memory."""


class Region:
    """One range of guest memory. `mapping` is None where the guest shares no file (vfio-user DMA without an fd):
    such a range counts for overlaps and can be removed, but a ring in it is refused."""

    mapping: GuestMapping | None = None
    mapping_start: int = 0
    """Where the region begins inside `mapping` (a mapping starts on a page of its file, a region need not)."""
    fd: int | None = None
    """The region's file, open until the region is closed; a vhost-user back-end gets a copy of it."""
    fd_offset: int = 0
    writable: bool = False
    sealed: bool = False
    """Its file cannot be truncated (F_SEAL_SHRINK)."""

    def __init__(self, guest_addr: int, size: int, user_addr: int | None = None) -> None:
        if size <= 0:
            raise GuestMemoryError(f"memory region at {guest_addr:#x} is empty")
        for what, addr in (("guest", guest_addr), ("user", user_addr or 0)):
            if not 0 <= addr <= ADDRESS_LIMIT - size:
                raise GuestMemoryError(
                    f"memory region at {what} address {addr:#x} wraps around (size {size:#x})"
                )
        self.guest_addr = guest_addr
        self.guest_end = guest_addr + size
        self.size = size
        self.user_addr = user_addr

    def __repr__(self) -> str:
        return f"<Region {self.guest_addr:#x}+{self.size:#x}>"

    @property
    def lost(self) -> bool:
        """Whether an access to it failed, so that its content is invalid."""
        return self.mapping is not None and self.mapping.lost

    def why_lost(self) -> str:
        """The likely cause of the failed access."""
        return "is gone"

    def close(self) -> None:
        """Close the file and unmap. A mapping with live views stays mapped until the last view is released."""
        if self.mapping is not None:
            try:
                self.mapping.close()
            except BufferError:
                pass  # a ring still holds a view: the last release unmaps
            self.mapping = None


class MappedRegion(Region):
    """A region of a file shared by the guest's side, mapped into this process."""

    def __init__(
        self,
        guest_addr: int,
        size: int,
        fd: int,
        fd_offset: int = 0,
        *,
        user_addr: int | None = None,
        writable: bool = True,
    ) -> None:
        """Map `size` bytes of `fd` from `fd_offset`. `fd` is duplicated: the caller still owns its own.

        A descriptor that is no memory file is not touched (`descriptors.seals_of`). The file's size is checked now.
        The client may truncate an unsealed file later, and tmpfs or hugetlbfs may lack room for its pages: an access
        then raises SIGBUS, which `vnic.memory.sigbus` handles, and the client is disconnected (`GuestMemory.check`).
        """
        super().__init__(guest_addr, size, user_addr)
        try:
            self._map(fd, fd_offset, writable)
        except NoRoom as error:
            raise GuestMemoryError(f"memory region at {guest_addr:#x}: {error}") from None
        except (OSError, ValueError, OverflowError) as error:
            self.close()
            raise GuestMemoryError(f"memory region at {guest_addr:#x} cannot be mapped: {error}") from None
        self.fd_offset = fd_offset
        self.writable = writable

    def _map(self, fd: int, fd_offset: int, writable: bool) -> None:
        # No peer can make an access to a memory file block, nor a call below. F_SEAL_SHRINK is not added: a seal
        # is permanent, the client may want to shrink its file after the VM ends, and a hostile client passes a
        # file that cannot be sealed.
        seals = seals_of(fd)
        if seals is None:
            raise GuestMemoryError(
                f"memory region at {self.guest_addr:#x}: its descriptor is no memory file"
                " (memfd, or a file on tmpfs or hugetlbfs)"
            )
        self.sealed = bool(seals & fcntl.F_SEAL_SHRINK)
        info = os.fstat(fd)
        if fd_offset < 0 or self.size > info.st_size or fd_offset > info.st_size - self.size:
            raise GuestMemoryError(
                f"memory region at {self.guest_addr:#x}: {self.size:#x} bytes at offset {fd_offset:#x} exceed its"
                f" file of {info.st_size:#x} bytes"
            )
        # hugetlbfs maps and unmaps whole huge pages only, and st_blksize is their size there.
        page = mmap.ALLOCATIONGRANULARITY
        if info.st_blksize > page and info.st_blksize & (info.st_blksize - 1) == 0:
            page = info.st_blksize
        start = fd_offset & ~(page - 1)
        stop = min((fd_offset + self.size + page - 1) & ~(page - 1), info.st_size)
        self.mapping = GuestMapping.of_file(fd, start, stop - start, page=page, writable=writable)
        self.mapping_start = fd_offset - start
        self.fd = os.dup(fd)

    def why_lost(self) -> str:
        if self.fd is not None and os.fstat(self.fd).st_size < self.fd_offset + self.size:
            return "was truncated"
        return "has no room for its pages (a full tmpfs, or no free huge page)"

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        super().close()


class GuestMemory:
    """All regions of one guest. `generation` grows with every change; `on_change` callbacks run after it."""

    def __init__(self) -> None:
        self.generation = 0
        self.on_change: list[Callable[[], None]] = []
        self._regions: list[Region] = []  # by guest address
        self._starts: list[int] = []

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions, lowest guest address first."""
        return tuple(self._regions)

    @property
    def mapped_bytes(self) -> int:
        """Bytes of it that the VM shares with us."""
        return sum(region.size for region in self._regions if region.fd is not None)

    @property
    def descriptors(self) -> int:
        """Open descriptors: each shared region has one, and its mapping one more."""
        return sum(2 for region in self._regions if region.fd is not None)

    def expect(self, *sizes: int, instead: bool = False) -> None:
        """Raise GuestMemoryError if regions of these sizes, added to the present ones or `instead` of them, exceed
        the limit for one guest. Call it before the regions are made."""
        mapped = 0 if instead else sum(region.size for region in self._regions if region.mapping is not None)
        try:
            SPACE.check_guest(mapped + sum(sizes))
        except NoRoom as error:
            raise GuestMemoryError(str(error)) from None

    @property
    def unsealed_bytes(self) -> int:
        """Bytes of shared memory that the VM could remove by truncating its file."""
        return sum(region.size for region in self._regions if region.fd is not None and not region.sealed)

    def add(self, region: Region) -> None:
        """Add and own `region`: its removal closes it. If it overlaps another region, or if there are too many,
        close it and raise GuestMemoryError."""
        try:
            self._check_new(region)
        except GuestMemoryError:
            region.close()
            raise
        at = bisect_right(self._starts, region.guest_addr)
        self._regions.insert(at, region)
        self._starts.insert(at, region.guest_addr)
        self._changed()

    def _check_new(self, region: Region) -> None:
        if len(self._regions) >= MAX_REGIONS:
            raise GuestMemoryError(f"more than {MAX_REGIONS} memory regions")
        for other in self._regions:
            if region.guest_addr < other.guest_end and other.guest_addr < region.guest_end:
                raise GuestMemoryError(f"memory regions overlap: {region!r} and {other!r}")
            if region.user_addr is None or other.user_addr is None:
                continue
            if (
                region.user_addr < other.user_addr + other.size
                and other.user_addr < region.user_addr + region.size
            ):
                raise GuestMemoryError(f"memory regions overlap in user addresses: {region!r} and {other!r}")

    def remove(self, guest_addr: int, size: int) -> None:
        """Remove and close the region of exactly this address and size. Raises GuestMemoryError if there is none."""
        at = bisect_right(self._starts, guest_addr) - 1
        if at < 0 or self._starts[at] != guest_addr or self._regions[at].size != size:
            raise GuestMemoryError(f"no memory region at {guest_addr:#x} of size {size:#x}")
        self._drop([self._regions[at]])

    def remove_within(self, guest_addr: int, size: int) -> int:
        """Remove every region inside the range (vfio-user's DMA_UNMAP); returns their number."""
        end = guest_addr + size
        inside = [r for r in self._regions if guest_addr <= r.guest_addr and r.guest_end <= end]
        if inside:
            self._drop(inside)
        return len(inside)

    def replace(self, regions: list[Region]) -> None:
        """Replace all regions (vhost-user SET_MEM_TABLE), with one change notification. If the new table is refused
        (GuestMemoryError), its regions are closed and the guest has no memory."""
        old, self._regions, self._starts = self._regions, [], []
        try:
            for region in sorted(regions, key=lambda r: r.guest_addr):
                self._check_new(region)
                self._regions.append(region)
        except GuestMemoryError:
            self._regions = []
            for region in regions:
                region.close()
            raise
        finally:
            self._starts = [r.guest_addr for r in self._regions]
            self._changed()
            for region in old:
                region.close()

    def close(self) -> None:
        """Remove and close all regions."""
        self._drop(list(self._regions))

    def _drop(self, gone: list[Region]) -> None:
        self._regions = [r for r in self._regions if r not in gone]
        self._starts = [r.guest_addr for r in self._regions]
        self._changed()  # first, so that rings release their views and the mappings close
        for region in gone:
            region.close()

    def replace_views(self) -> None:
        """Have all users of views make new ones, as after a change of regions."""
        self._changed()

    def _changed(self) -> None:
        self.generation += 1
        for callback in list(self.on_change):
            callback()

    def check(self) -> None:
        """Raise GuestMemoryError if an access to the guest's memory failed."""
        for region in self._regions:
            if region.lost:
                raise GuestMemoryError(f"the file of memory region {region!r} {region.why_lost()}")

    @property
    def lost(self) -> bool:
        """Whether an access to it failed: the guest will be disconnected, and its rings are invalid."""
        return any(region.lost for region in self._regions)

    def find(self, guest_addr: int) -> Region | None:
        """The region that holds this address."""
        at = bisect_right(self._starts, guest_addr) - 1
        if at >= 0 and guest_addr < self._regions[at].guest_end:
            return self._regions[at]
        return None

    def span(self, guest_addr: int, length: int, *, write: bool = False) -> Span:
        """The range as bytes of ONE region's mapping. Raises GuestMemoryError."""
        region = self.find(guest_addr)
        if region is None or length < 0 or length > region.guest_end - guest_addr:
            raise GuestMemoryError(f"guest range {guest_addr:#x}+{length:#x} is not in one memory region")
        if region.mapping is None:
            raise GuestMemoryError(
                f"guest range {guest_addr:#x}+{length:#x} is memory the guest does not share"
            )
        if write and not region.writable:
            raise GuestMemoryError(f"guest range {guest_addr:#x}+{length:#x} is read-only")
        start = guest_addr - region.guest_addr + region.mapping_start
        return region.mapping, start, start + length

    def spans(self, guest_addr: int, length: int, *, write: bool = False) -> list[Span]:
        """The range, which may cross adjacent regions. Raises GuestMemoryError."""
        found = []
        while length > 0:
            region = self.find(guest_addr)
            if region is None:
                raise GuestMemoryError(f"guest address {guest_addr:#x} is in no memory region")
            step = min(length, region.guest_end - guest_addr)
            found.append(self.span(guest_addr, step, write=write))
            guest_addr += step
            length -= step
        return found

    def slice(self, guest_addr: int, length: int, *, write: bool = False) -> memoryview:
        """A live view of a range of one region, for ring structures; read-only unless `write` is set.

        Raises GuestMemoryError."""
        mapping, start, stop = self.span(guest_addr, length, write=write)
        return mapping.view(start, stop) if write else memoryview(mapping)[start:stop].toreadonly()

    def read(self, guest_addr: int, length: int) -> bytes:
        """A copy of a guest range. Raises GuestMemoryError."""
        return b"".join([mapping[start:stop] for mapping, start, stop in self.spans(guest_addr, length)])

    def write(self, guest_addr: int, data: bytes | memoryview) -> None:
        """Copy `data` to a guest range. Raises GuestMemoryError, and then copies nothing."""
        at = 0
        for mapping, start, stop in self.spans(guest_addr, len(data), write=True):
            mapping[start:stop] = bytes(data[at : at + stop - start])
            at += stop - start

    def user_to_guest(self, user_addr: int, length: int = 1) -> int:
        """The guest address of a range of the client's user addresses (vhost-user ring addresses)."""
        for region in self._regions:
            base = region.user_addr
            if base is not None and base <= user_addr and length <= base + region.size - user_addr:
                return user_addr - base + region.guest_addr
        raise GuestMemoryError(f"user address {user_addr:#x}+{length:#x} is in no memory region")


NO_MEMORY: Final = GuestMemory()
"""The memory of a device without a VM: it has no region, so every access is refused."""

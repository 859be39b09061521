"""A guest's RAM for tests: a memfd, mapped here as the guest sees it, and handed to vnic by its fd.

The fake driver allocates its rings and buffers in it; a test of an attachment passes `fd` over its socket.
"""

from __future__ import annotations

import mmap
import os

from vnic.lab.played.closing import Closing
from vnic.memory.guest import GuestMemory, MappedRegion

GUEST_ADDR = 0x4000_0000
USER_ADDR = 0x7F12_3456_0000
"""Where the region is in the address space of the guest's own process: what vhost-user rings are named by."""


class FakeGuestMemory(Closing):
    """`size` bytes at `guest_addr`; `fd_offset` bytes of its file lie before them."""

    def __init__(
        self,
        size: int = 8 << 20,
        *,
        guest_addr: int = GUEST_ADDR,
        user_addr: int | None = USER_ADDR,
        fd_offset: int = 0,
        fd: int | None = None,
    ) -> None:
        """`fd`: a file of that size, closed with this; by default a new memfd."""
        self.size = size
        self.guest_addr = guest_addr
        self.user_addr = user_addr
        self.fd_offset = fd_offset
        if fd is None:
            fd = os.memfd_create("guest", os.MFD_CLOEXEC)
            os.ftruncate(fd, fd_offset + size)
        self.fd = fd
        self.mapping = mmap.mmap(self.fd, fd_offset + size)
        self._next = guest_addr
        self._served: list[GuestMemory] = []

    def close(self) -> None:
        for memory in self._served:
            memory.close()
        try:
            self.mapping.close()
        except BufferError:
            pass  # a failed test still holds a ring's view
        os.close(self.fd)

    def region(self) -> MappedRegion:
        """The region as an attachment makes it of a message."""
        return MappedRegion(self.guest_addr, self.size, self.fd, self.fd_offset, user_addr=self.user_addr)

    def served(self) -> GuestMemory:
        """The device's view of it; closed with this."""
        memory = GuestMemory()
        memory.add(self.region())
        self._served.append(memory)
        return memory

    def alloc(self, size: int, align: int = 16) -> int:
        """The guest address of `size` fresh bytes."""
        addr = (self._next + align - 1) & ~(align - 1)
        if addr + size > self.guest_addr + self.size:
            raise MemoryError("the fake guest has no memory left")
        self._next = addr + size
        return addr

    def at(self, addr: int) -> int:
        """The offset in `mapping` of a guest address."""
        return addr - self.guest_addr + self.fd_offset

    def read(self, addr: int, length: int) -> bytes:
        return self.mapping[self.at(addr) : self.at(addr) + length]

    def write(self, addr: int, data: bytes) -> None:
        self.mapping[self.at(addr) : self.at(addr) + len(data)] = data

    def view(self, addr: int, length: int) -> memoryview:
        return memoryview(self.mapping)[self.at(addr) : self.at(addr) + length]

    def to_user(self, addr: int) -> int:
        """The user address of a guest address."""
        assert self.user_addr is not None
        return addr - self.guest_addr + self.user_addr

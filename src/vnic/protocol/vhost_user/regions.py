"""Maps the regions of guest memory of SET_MEM_TABLE and ADD_MEM_REG. `ring_messages` calls it."""

from __future__ import annotations

from typing import Final

from vnic.memory.guest import (
    GuestMemory,
    GuestMemoryError,
    MappedRegion,
    Region,
)
from vnic.protocol.frames import Message
from vnic.protocol.vhost_user import messages as vu
from vnic.protocol.vhost_user.messages import MemRegion, ProtocolError

MAX_MEM_SLOTS: Final = 32
"""Regions that ADD_MEM_REG may build up; as libvhost-user's VHOST_USER_MAX_RAM_SLOTS on most machines."""


def map_table(message: Message, memory: GuestMemory) -> list[Region]:
    """The regions of SET_MEM_TABLE, which are to be all that `memory` has. Raises ProtocolError, or GuestMemoryError
    for one that cannot be mapped."""
    count, _ = vu.MEM_TABLE.unpack_from(message.payload)
    body = message.payload[vu.MEM_TABLE.size :]
    # UML always sends two regions and counts those that are meant: a surplus is no fault.
    if not 0 < count <= vu.MAX_FDS or len(body) < count * vu.MEM_REGION.size:
        raise ProtocolError(f"SET_MEM_TABLE of {count} regions in {len(message.payload)} bytes")
    if len(message.fds) != count:
        raise ProtocolError(f"SET_MEM_TABLE of {count} regions with {len(message.fds)} descriptors")
    rows = [MemRegion(*vu.MEM_REGION.unpack_from(body, at * vu.MEM_REGION.size)) for at in range(count)]
    memory.expect(*(row.size for row in rows), instead=True)
    regions: list[Region] = []
    try:
        for row, fd in zip(rows, message.fds, strict=True):
            regions.append(map_region(row, fd))
    except GuestMemoryError:
        for region in regions:
            region.close()
        raise
    return regions


def single_region(message: Message) -> MemRegion:
    """The region that ADD_MEM_REG or REM_MEM_REG names."""
    return MemRegion(*vu.SINGLE_REGION.unpack(message.payload)[1:])


def map_region(row: MemRegion, fd: int) -> MappedRegion:
    """One region; `fd` stays the caller's. Raises GuestMemoryError."""
    return MappedRegion(row.guest_addr, row.size, fd, row.mmap_offset, user_addr=row.user_addr)

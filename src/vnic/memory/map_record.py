"""The saved map of a guest's memory: its regions and their kinds. The files' descriptors are passed beside it.

The attachments save it, and restore all regions at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from vnic.memory.guest import GuestMemory, GuestMemoryError, MappedRegion, Region
from vnic.memory.shadow import ShadowRegion
from vnic.record import U64, Record, RecordError, require

_MAX_REGIONS = 512


class RegionRecord(Record, frozen=True):
    guest_addr: U64
    size: U64
    user_addr: U64 | None
    kind: Literal["file", "shadow", "unshared"]
    """`file`: its descriptor is passed beside the record. `shadow`: the restored copy is empty and is fetched again."""
    fd_offset: U64
    writable: bool


class MemoryMapRecord(Record, frozen=True):
    regions: Annotated[list[RegionRecord], msgspec.Meta(max_length=_MAX_REGIONS)]


def save_map(memory: GuestMemory) -> tuple[MemoryMapRecord, list[int]]:
    """The record, and the descriptors of its files in order; they stay the memory's."""
    records = [
        RegionRecord(
            guest_addr=region.guest_addr,
            size=region.size,
            user_addr=region.user_addr,
            kind="file"
            if region.fd is not None
            else "shadow"
            if isinstance(region, ShadowRegion)
            else "unshared",
            fd_offset=region.fd_offset,
            writable=region.writable,
        )
        for region in memory.regions
    ]
    return MemoryMapRecord(regions=records), [each.fd for each in memory.regions if each.fd is not None]


def restore_map(memory: GuestMemory, record: MemoryMapRecord, fds: Sequence[int]) -> None:
    """Give an empty memory its regions. The descriptors stay the caller's. Raises RecordError, and leaves it
    empty."""
    count = sum(each.kind == "file" for each in record.regions)
    require(count == len(fds), "regions", f"are of {count} files, not {len(fds)}")
    files = iter(fds)
    made: list[Region] = []
    try:
        memory.expect(*(each.size for each in record.regions if each.kind != "unshared"), instead=True)
        made.extend(_region(each, next(files) if each.kind == "file" else -1) for each in record.regions)
    except GuestMemoryError as error:
        for region in made:
            region.close()
        raise RecordError("regions", str(error)) from None
    try:
        memory.replace(made)
    except GuestMemoryError as error:
        raise RecordError("regions", str(error)) from None


def _region(record: RegionRecord, fd: int) -> Region:
    if record.kind == "file":
        return MappedRegion(
            record.guest_addr,
            record.size,
            fd,
            record.fd_offset,
            user_addr=record.user_addr,
            writable=record.writable,
        )
    if record.kind == "shadow":
        return ShadowRegion(record.guest_addr, record.size, writable=record.writable)
    region = Region(record.guest_addr, record.size, record.user_addr)
    region.writable = record.writable
    return region

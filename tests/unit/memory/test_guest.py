"""Guest memory: what regions are accepted, what ranges are found, and that nothing outlives its removal."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.memory import guest as memory_module
from vnic.memory import mapping as mapping_module
from vnic.memory.address_space import AddressSpace, NoRoom, of_this_process
from vnic.memory.guest import (
    MAX_REGIONS,
    GuestMemory,
    GuestMemoryError,
    MappedRegion,
    Region,
)
from vnic.memory.shadow import ShadowRegion

PAGE = mmap.PAGESIZE


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory()
    yield memory
    memory.close()


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


def region(fd: int, guest_addr: int, size: int, offset: int, user_addr: int | None = None) -> MappedRegion:
    return MappedRegion(guest_addr, size, fd, offset, user_addr=user_addr)


@pytest.mark.parametrize("fd_offset", [0, PAGE, 5 * PAGE, 100, PAGE + 24])
def test_region_start_need_not_be_page_aligned(fd_offset: int) -> None:
    with FakeGuestMemory(2 * PAGE, fd_offset=fd_offset) as guest:
        guest.write(guest.guest_addr + 8, b"from the guest")
        memory = guest.served()
        assert memory.read(guest.guest_addr + 8, 14) == b"from the guest"
        memory.write(guest.guest_addr + PAGE, b"from the device")
        assert guest.read(guest.guest_addr + PAGE, 15) == b"from the device"


def test_region_keeps_its_descriptor_until_removal(memory: GuestMemory, memfd: int) -> None:
    memory.add(region(memfd, 0, PAGE, 0))
    kept = memory.regions[0].fd
    assert kept is not None
    assert kept != memfd
    assert os.fstat(kept).st_ino == os.fstat(memfd).st_ino
    memory.remove(0, PAGE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)


@pytest.mark.parametrize(
    ("guest_addr", "size", "offset"),
    [
        (0, 0, 0),
        (0, -1, 0),
        (0, 17 * PAGE, 0),
        (0, PAGE, 16 * PAGE),
        (0, 2 * PAGE, 15 * PAGE),
        (0, PAGE, -PAGE),
        (0, 1 << 63, 1 << 62),
        ((1 << 64) - PAGE, 2 * PAGE, 0),
        (-1, PAGE, 0),
    ],
)
def test_invalid_region_is_refused(memfd: int, guest_addr: int, size: int, offset: int) -> None:
    with pytest.raises(GuestMemoryError):
        region(memfd, guest_addr, size, offset)


def test_region_of_other_than_memory_file_is_refused(tmp_path: Path) -> None:
    """Neither is anything else done with a stranger's descriptor than to ask what it is."""
    on_disk = tmp_path / "file"
    on_disk.write_bytes(bytes(PAGE))
    memfd = os.memfd_create("guest")
    os.ftruncate(memfd, PAGE)
    kinds = [
        *os.pipe(),
        os.eventfd(0),
        os.open("/dev/zero", os.O_RDWR),
        os.open(tmp_path, os.O_RDONLY),
        os.open("/proc/self/mem", os.O_RDWR),
        os.open(f"/proc/self/fd/{memfd}", os.O_PATH),
        memfd,
    ]
    if not _is_tmpfs(tmp_path):
        kinds.insert(0, os.open(on_disk, os.O_RDWR))
    for fd in kinds[:-1]:
        with pytest.raises(GuestMemoryError, match="is no memory file"):
            region(fd, 0, PAGE, 0)
    region(memfd, 0, PAGE, 0).close()
    for fd in kinds:
        os.close(fd)


def _is_tmpfs(path: Path) -> bool:
    with open(path / "probe", "w+b") as file:
        try:
            return fcntl.fcntl(file, fcntl.F_GET_SEALS) >= 0
        except OSError:
            return False


def test_region_reports_whether_its_file_is_sealed() -> None:
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * PAGE)
    for sealed in (False, True):
        made = region(fd, 0, PAGE, 0)
        assert made.sealed is sealed
        made.close()
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == (
            fcntl.F_SEAL_SHRINK if sealed else 0
        )  # it is the client's
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    os.close(fd)


def test_read_only_file_is_not_mapped_writable(memory: GuestMemory, memfd: int) -> None:
    read_only = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    with pytest.raises(GuestMemoryError, match="cannot be mapped"):
        region(read_only, 0, PAGE, 0)
    memory.add(MappedRegion(0, PAGE, read_only, 0, writable=False))
    os.close(read_only)
    assert memory.read(0, 4) == bytes(4)
    with pytest.raises(GuestMemoryError, match="read-only"):
        memory.write(0, b"x")


def test_overlapping_region_is_refused_and_map_unchanged(memory: GuestMemory, memfd: int) -> None:
    memory.add(region(memfd, 4 * PAGE, 2 * PAGE, 0, user_addr=0x1000_0000))
    for start, size in ((3 * PAGE, 2 * PAGE), (5 * PAGE, PAGE), (0, 16 * PAGE), (4 * PAGE, 2 * PAGE)):
        with pytest.raises(GuestMemoryError, match="overlap"):
            memory.add(region(memfd, start, size, 0))
    with pytest.raises(GuestMemoryError, match="user addresses"):
        memory.add(region(memfd, 10 * PAGE, PAGE, 0, user_addr=0x1000_0000 + PAGE))
    assert [each.guest_addr for each in memory.regions] == [4 * PAGE]
    assert memory.generation == 1


def test_number_of_regions_is_bounded(memory: GuestMemory) -> None:
    for number in range(MAX_REGIONS):
        memory.add(Region(number * PAGE, PAGE))
    with pytest.raises(GuestMemoryError, match="more than"):
        memory.add(Region(MAX_REGIONS * PAGE, PAGE))


def test_range_may_cross_adjacent_regions(memory: GuestMemory, memfd: int) -> None:
    memory.add(region(memfd, 2 * PAGE, PAGE, 5 * PAGE))
    memory.add(region(memfd, PAGE, PAGE, 0))
    memory.write(2 * PAGE - 3, b"abcdef")
    assert memory.read(2 * PAGE - 3, 6) == b"abcdef"
    assert os.pread(memfd, 3, PAGE - 3) == b"abc"
    assert os.pread(memfd, 3, 5 * PAGE) == b"def"
    with pytest.raises(GuestMemoryError, match="not in one"):
        memory.slice(2 * PAGE - 3, 6)
    with pytest.raises(GuestMemoryError, match="in no memory region"):
        memory.read(3 * PAGE - 3, 6)


def test_write_that_does_not_fit_writes_nothing(memory: GuestMemory, memfd: int) -> None:
    memory.add(region(memfd, 0, PAGE, 0))
    with pytest.raises(GuestMemoryError):
        memory.write(PAGE - 2, b"abcd")
    assert memory.read(PAGE - 2, 2) == bytes(2)


def test_access_to_unshared_region_is_refused(memory: GuestMemory) -> None:
    memory.add(Region(0, PAGE))
    with pytest.raises(GuestMemoryError, match="does not share"):
        memory.read(0, 4)
    with pytest.raises(GuestMemoryError, match="overlap"):
        memory.add(Region(0, 2 * PAGE))
    memory.remove(0, PAGE)


def test_remove_requires_exact_address_and_size(memory: GuestMemory, memfd: int) -> None:
    memory.add(region(memfd, 0, 2 * PAGE, 0))
    for start, size in ((0, PAGE), (PAGE, PAGE), (PAGE, 2 * PAGE), (8 * PAGE, PAGE)):
        with pytest.raises(GuestMemoryError, match="no memory region"):
            memory.remove(start, size)
    memory.remove(0, 2 * PAGE)
    assert memory.regions == ()


def test_remove_within_removes_all_regions_of_range(memory: GuestMemory, memfd: int) -> None:
    for page in (0, 2, 4):
        memory.add(region(memfd, page * PAGE, PAGE, 0))
    assert memory.remove_within(PAGE, 4 * PAGE) == 2
    assert [each.guest_addr for each in memory.regions] == [0]
    assert memory.remove_within(8 * PAGE, PAGE) == 0


def test_refused_replace_leaves_no_memory(memory: GuestMemory, memfd: int) -> None:
    changes: list[int] = []
    memory.add(region(memfd, 0, PAGE, 0))
    memory.on_change.append(lambda: changes.append(len(memory.regions)))
    memory.replace([region(memfd, PAGE, PAGE, 0), region(memfd, 0, PAGE, 0)])
    assert [each.guest_addr for each in memory.regions] == [0, PAGE]
    with pytest.raises(GuestMemoryError, match="overlap"):
        memory.replace([region(memfd, 0, 2 * PAGE, 0), region(memfd, PAGE, PAGE, 0)])
    assert memory.regions == ()
    assert changes == [2, 0]


def test_view_keeps_removed_region_mapped(memory: GuestMemory, memfd: int) -> None:
    memory.add(region(memfd, 0, PAGE, 0))
    view = memory.slice(0, 16, write=True)
    memory.remove(0, PAGE)
    view[0] = 7  # still mapped, until its release
    view.release()
    with pytest.raises(GuestMemoryError):
        memory.slice(0, 16, write=True)


def test_user_address_translates_to_guest_address(memory: GuestMemory, memfd: int) -> None:
    memory.add(region(memfd, 0, PAGE, 0, user_addr=0x7000_0000_0000))
    memory.add(region(memfd, 8 * PAGE, 2 * PAGE, PAGE, user_addr=0x7000_0000_0000 + PAGE))
    memory.add(region(memfd, 4 * PAGE, PAGE, 0))
    assert memory.user_to_guest(0x7000_0000_0000 + PAGE + 5) == 8 * PAGE + 5
    assert memory.user_to_guest(0x7000_0000_0000, PAGE) == 0
    for addr, length in ((0x7000_0000_0000, PAGE + 1), (0, 1), (0x7000_0000_0000 + 3 * PAGE, 1)):
        with pytest.raises(GuestMemoryError):
            memory.user_to_guest(addr, length)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=6),
    st.lists(st.tuples(st.integers(-3, 17 * PAGE), st.integers(0, 6 * PAGE)), min_size=1, max_size=8),
)
def test_range_is_found_only_if_every_byte_is_mapped(
    pages: list[tuple[int, int]], ranges: list[tuple[int, int]]
) -> None:
    memory = GuestMemory()
    mapped: set[int] = set()
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 16 * PAGE)
    for first, count in pages:
        wanted = set(range(first, first + count))
        if wanted & mapped:
            with pytest.raises(GuestMemoryError):
                memory.add(region(fd, first * PAGE, count * PAGE, first * PAGE))
        else:
            memory.add(region(fd, first * PAGE, count * PAGE, first * PAGE))
            mapped |= wanted
    for start, length in ranges:
        wanted = set(range(start // PAGE, (start + length - 1) // PAGE + 1)) if length else set()
        if wanted <= mapped:
            assert sum(stop - begin for _, begin, stop in memory.spans(start, length)) == length
        else:
            with pytest.raises(GuestMemoryError):
                memory.spans(start, length)
    memory.close()
    os.close(fd)


# -- limits -------------------------------------------------------------------------------------------------------


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> AddressSpace:
    """Small limits, with nothing used: 8 pages a guest, 12 for all, 6 mappings."""
    made = AddressSpace(8 * PAGE, 12 * PAGE, 6)
    for module in (memory_module, mapping_module):
        monkeypatch.setattr(module, "SPACE", made)
    return made


def test_memory_of_one_guest_is_limited(space: AddressSpace, memory: GuestMemory, memfd: int) -> None:
    memory.expect(8 * PAGE)
    memory.add(region(memfd, 0, 5 * PAGE, 0))
    memory.expect(3 * PAGE)
    memory.expect(4 * PAGE, 4 * PAGE, instead=True)
    memory.add(Region(16 * PAGE, 64 * PAGE))  # which it does not share takes no addresses
    for sizes, instead in (((4 * PAGE,), False), ((2 * PAGE, 2 * PAGE), False), ((8 * PAGE, 1), True)):
        with pytest.raises(GuestMemoryError, match="of memory are above the limit of 32 KiB for one guest"):
            memory.expect(*sizes, instead=instead)


def test_memory_of_all_guests_is_limited_and_unmap_frees(
    space: AddressSpace, memory: GuestMemory, memfd: int
) -> None:
    other = GuestMemory()
    memory.add(region(memfd, 0, 7 * PAGE, 0))
    other.add(region(memfd, 0, 5 * PAGE, 0))
    assert (space.mapped_bytes, space.mappings) == (12 * PAGE, 2)
    with pytest.raises(GuestMemoryError, match=r"4 KiB beside the 48 KiB .* limit of 48 KiB for all guests"):
        region(memfd, 0, PAGE, 0)
    with pytest.raises(GuestMemoryError, match="for all guests"):
        ShadowRegion(0, PAGE, writable=True)
    view = other.slice(0, 4)
    other.close()
    assert space.mapped_bytes == 12 * PAGE  # mapped as long as a ring views it
    view.release()
    assert space.mapped_bytes == 7 * PAGE
    read_only = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    with pytest.raises(GuestMemoryError, match="cannot be mapped"):
        region(read_only, 0, PAGE, 0)
    os.close(read_only)
    memory.close()
    assert (space.mapped_bytes, space.mappings) == (0, 0)


def test_number_of_guest_mappings_is_limited(space: AddressSpace, memory: GuestMemory, memfd: int) -> None:
    for number in range(6):
        memory.add(region(memfd, number * PAGE, PAGE, 0))
    with pytest.raises(GuestMemoryError, match="6 mappings, all that they may have"):
        region(memfd, 0, PAGE, 0)


def test_default_limits_leave_half_of_address_space() -> None:
    space = of_this_process()
    assert space.guest_bytes <= space.total_bytes <= 1 << 56
    assert space.guest_bytes >= 4 * os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") or (
        space.guest_bytes == space.total_bytes
    )
    assert space.max_mappings > 0
    space.limit(None, 1 << 30)
    assert (space.guest_bytes, space.total_bytes) == (1 << 30, 1 << 30)
    space.limit(1 << 20, None)
    assert (space.guest_bytes, space.total_bytes) == (1 << 20, 1 << 30)
    for guest, total, text in (
        (0, None, "let no VM share"),
        (None, 0, "let no VM share"),
        ((1 << 30) + 1, None, "1073741825 bytes for one guest are above the 1 GiB for all"),
        (2 << 20, 1 << 20, "2 MiB for one guest are above the 1 MiB for all"),
        (None, 1 << 63, "above the address space"),
    ):
        with pytest.raises(NoRoom, match=text):
            space.limit(guest, total)
    assert (space.guest_bytes, space.total_bytes) == (1 << 20, 1 << 30)

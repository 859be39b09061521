"""Recovery from SIGBUS on guest memory: zeros replace the mapping, and only that mapping is marked lost.

Each test runs in a separate process, since a fault without recovery ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import require

SOURCE = Path(__file__).parents[3] / "src"

BEGIN = """
import mmap, os, resource
from vnic.memory import sigbus
from vnic.memory.guest import GuestMemory, GuestMemoryError, MappedRegion

def guest(size=1 << 20, fill=b"x", **more):
    fd = os.memfd_create("guest")
    os.ftruncate(fd, size)
    os.pwrite(fd, fill * size, 0)
    memory = GuestMemory()
    memory.add(MappedRegion(0, size, fd, **more))
    return fd, memory, memory.regions[0].mapping

def reason(memory):
    try:
        memory.check()
    except GuestMemoryError as error:
        return str(error)

lost = []
"""


def run(program: str, *wrapper: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*wrapper, sys.executable, "-c", BEGIN + program],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def survived(program: str, *wrapper: str) -> None:
    done = run(program, *wrapper)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_access_to_lost_memory_reads_zeros() -> None:
    survived("""
with sigbus.survived(lambda: lost.append(1)):
    fd, memory, mapping = guest()
    os.ftruncate(fd, 8192)
    assert mapping[:8192] == b"x" * 8192 and not lost
    assert mapping[8000:20000] == b"x" * 192 + bytes(11808)
    assert mapping[8192] == 0 and len(lost) == 1

    fd, memory, mapping = guest()
    field = memoryview(mapping)[65536:65540].cast("H")
    os.ftruncate(fd, 8192)
    field[1] = 3
    assert field.tolist() == [0, 3] and len(lost) == 2
    field.release()

    fd, memory, mapping = guest()
    os.ftruncate(fd, 8192)
    mapping[100000:200000] = b"y" * 100000
    assert mapping[100000:200000] == b"y" * 100000 and len(lost) == 3

    fd, memory, mapping = guest(writable=False)
    os.ftruncate(fd, 0)
    assert mapping[8192:8196] == bytes(4) and len(lost) == 4
""")


def test_loss_marks_only_the_affected_mapping() -> None:
    survived("""
with sigbus.survived(lambda: lost.append(1)):
    good = [guest(fill=b"g") for _ in range(3)]
    fd, bad, mapping = guest()
    good += [guest(fill=b"g") for _ in range(3)]
    os.ftruncate(fd, 0)
    for at in range(0, 1 << 20, 4096):
        assert mapping[at] == 0
    assert bad.lost and "was truncated" in reason(bad)
    for _, memory, mapping in good:
        assert not memory.lost and reason(memory) is None
        assert mapping[:] == b"g" * (1 << 20)
    assert len(lost) == 1
""")


MAPS = "maps = lambda: len(open('/proc/self/maps').readlines())\n"


def test_lost_pages_take_no_mappings() -> None:
    """Each second page of a mapping used to become two mappings more, until there were no more to be had."""
    survived(
        MAPS
        + """
with sigbus.survived(lambda: lost.append(1)):
    fd, memory, mapping = guest(64 << 20)
    mapping[0]
    before = maps()
    os.ftruncate(fd, 0)
    for at in range(0, 64 << 20, 8192):
        mapping[at] = 1
    assert maps() <= before + 2, (before, maps())
    assert len(lost) == 1
"""
    )


def test_loss_is_survived_at_limit_of_mappings() -> None:
    """The lost mapping is unmapped before zeros replace it; no other memory is touched."""
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    require(most <= 1 << 20, "a vm.max_map_count that can be reached")
    survived(f"""
with sigbus.survived(lambda: lost.append(1)):
    other = guest(fill=b"o")
    fd, memory, mapping = guest()
    last = guest(fill=b"l")
    PAGE = mmap.PAGESIZE
    room = mmap.mmap(-1, {most} * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    start = sigbus.address_of(room)
    os.ftruncate(fd, 0)
    mprotect = sigbus._libc.mprotect
    mprotect.argtypes = sigbus._libc.munmap.argtypes + (sigbus.ctypes.c_int,)
    for at in range(0, {most} * PAGE, 2 * PAGE):
        if mprotect(start + at, PAGE, 0):
            break
    else:
        raise SystemExit("vm.max_map_count was not reached")
    more, tries, replace = [], [], sigbus._map_zeros
    def recorded(start, size, how):
        tries.append(how)
        return replace(start, size, how)
    sigbus._map_zeros = recorded
    try:  # the last ones that may be had
        while True:
            more.append(mmap.mmap(-1, PAGE))
    except OSError:
        pass
    assert mapping[5] == 0
    assert tries == [sigbus._MAP_FIXED, sigbus._MAP_FIXED, sigbus._MAP_FIXED_NOREPLACE], tries
    room.close()  # Python needs memory as well
    assert memory.lost
    assert other[2][:] == b"o" * (1 << 20) and last[2][:] == b"l" * (1 << 20)
""")


def test_loss_is_survived_without_overcommit() -> None:
    """Where a whole mapping of zeros is refused (vm.overcommit_memory=2; here a limit), one page does."""
    survived("""
with sigbus.survived(lambda: lost.append(1)):
    fd, memory, mapping = guest()
    os.ftruncate(fd, 0)
    whole, sizes = sigbus._map_zeros, []
    def small_only(start, size, how):
        sizes.append(size)
        return size <= 4096 and whole(start, size, how)
    sigbus._map_zeros = small_only
    assert mapping[70000:70004] == bytes(4)
    assert mapping[90000] == 0
    assert sizes == [1 << 20, 4096] * 2 and len(lost) == 1 and memory.lost
""")


def test_viewed_mapping_stays_watched_after_removal() -> None:
    """A region that is removed while a ring views it stays mapped, and known, until the view goes."""
    survived("""
with sigbus.survived(lambda: lost.append(1)):
    fd, memory, mapping = guest()
    view = memoryview(mapping)[4096:8192]
    del mapping
    memory.close()
    assert len(sigbus._areas) == 1
    os.ftruncate(fd, 0)
    assert view[0] == 0 and len(lost) == 1
    view.release()
    del view
    assert not sigbus._areas
""")


def test_sparse_file_without_room_is_lost(tmp_path: Path) -> None:
    """A sparse file on a full tmpfs: its size stays right."""
    wrapper = ("unshare", "--user", "--map-root-user", "--mount")
    require(subprocess.run([*wrapper, "true"], check=False).returncode == 0, "user and mount namespaces")
    survived(
        MAPS
        + f"""
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", {str(tmp_path)!r}], check=True)
with sigbus.survived(lambda: lost.append(1)):
    fd = os.open({str(tmp_path)!r} + "/guest", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 30)
    memory = GuestMemory()
    memory.add(MappedRegion(0, 1 << 30, fd))
    for page in range(1000):
        memory.read(8192 * page, 4)
    assert memory.lost and len(lost) == 1
    assert "no room for its pages" in reason(memory)
""",
        *wrapper,
    )


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("with sigbus.survived(lambda: 0): read_only[70000]", "nobody's memory"),
        (
            "with sigbus.survived(lambda: 0): known[70000]\nprint('survived', flush=True)\nknown2[0]",
            "outside",
        ),
        ("with sigbus.survived(lambda: 0): os.kill(os.getpid(), signal.SIGBUS)\nread_only[70000]", "sent"),
        (
            "with sigbus.survived(lambda: 1 / 0): known[70000]; sigbus._areas = None; known2[0]",
            "a fault of ours",
        ),
    ],
)
def test_sigbus_outside_guest_memory_ends_process(program: str, outcome: str) -> None:
    done = run(
        """
import signal
fd, memory, known = guest()
fd2, memory2, known2 = guest()
fd3 = os.memfd_create("other")
os.ftruncate(fd3, 1 << 20)
read_only = mmap.mmap(fd3, 1 << 20, prot=mmap.PROT_READ)
for each in (fd, fd2, fd3):
    os.ftruncate(each, 0)
"""
        + program
    )
    assert done.returncode == -signal.SIGBUS, (outcome, done)


def free_huge_pages() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields.get("HugePages_Free", "0").split()[0])


HUGE = """
huge = int([line.split()[1] for line in open("/proc/meminfo") if line.startswith("Hugepagesize")][0]) << 10
fd = os.memfd_create("guest", os.MFD_HUGETLB)
os.ftruncate(fd, 2 * huge)
"""


NUMBER_OF_HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")


@pytest.fixture
def two_huge_pages() -> Iterator[None]:
    """Free ones: root can have the kernel set them aside, unless memory is too fragmented."""
    before = NUMBER_OF_HUGE_PAGES.read_text()
    try:
        NUMBER_OF_HUGE_PAGES.write_text(str(int(before) + 2))
    except OSError:
        before = ""
    try:
        if free_huge_pages() < 2:
            pytest.skip("this machine lacks two free huge pages (sysctl vm.nr_hugepages=2)")
        yield
    finally:
        if before:
            NUMBER_OF_HUGE_PAGES.write_text(before)


@pytest.mark.usefixtures("two_huge_pages")
def test_truncated_huge_pages_read_zeros() -> None:
    survived(
        HUGE
        + """
memory = GuestMemory()
memory.add(MappedRegion(0, 2 * huge, fd))
other = guest(fill=b"o")
with sigbus.survived(lambda: lost.append(1)):
    memory.write(0, b"first")
    memory.write(huge, b"second")
    os.ftruncate(fd, huge)
    assert memory.read(0, 5) == b"first" and not lost
    assert memory.read(huge, 6) == bytes(6)
    assert len(lost) == 1 and "was truncated" in reason(memory)
    assert other[2][:] == b"o" * (1 << 20)
memory.close()
"""
    )


def test_region_without_free_huge_pages_is_refused() -> None:
    """mmap reserves them."""
    if free_huge_pages():
        pytest.skip("this machine has free huge pages")
    survived(
        HUGE
        + """
try:
    MappedRegion(0, 2 * huge, fd)
except GuestMemoryError as error:
    assert "cannot be mapped" in str(error), error
else:
    raise SystemExit("mapped")
"""
    )

"""Recovery from SIGBUS: an access to a page that the guest's side removed reads zeros instead of ending the process.

`vnic run` runs inside `survived`; `memory.mapping` registers each mapping with `watch` before its first access, and
removes it with `forget` right before the unmap. A SIGBUS at any other address is a bug of vnic and ends the process.

A page is missing when the guest's side truncated the file, and when there is no room for it: a sparse file on a full
tmpfs, or on hugetlbfs with no free huge page. A Python signal handler would never run, because the CPU retries the
failed access first. So the handler is a C function (made by ctypes) that runs inside the access: it replaces the
mapping with zeros, marks it lost, and the access succeeds. The loop then disconnects the guest that shared it.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_SA_SIGINFO: Final = 4
_BUS_ADRERR: Final = 2
_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_MAP_FIXED_NOREPLACE: Final = 0x100000


@dataclass(eq=False, slots=True)
class Area:
    """Addresses [start, stop) of one mapping, whose file has pages of `page` bytes."""

    start: int
    stop: int
    page: int
    lost: bool = False
    """An access failed. Later reads return invalid data."""


_areas: dict[int, Area] = {}


def watch(area: Area) -> None:
    """Recover from failed accesses to this mapping."""
    _areas[area.start] = area


def forget(area: Area) -> None:
    """Call right before the unmap: another mapping may use the addresses afterwards. Idempotent."""
    if _areas.get(area.start) is area:
        del _areas[area.start]


def _find(address: int) -> Area | None:
    for area in list(_areas.values()):
        if area.start <= address < area.stop:
            return area
    return None


class _SigInfo(ctypes.Structure):
    """The beginning of siginfo_t."""

    _fields_ = (
        ("signo", ctypes.c_int),
        ("errno", ctypes.c_int),
        ("code", ctypes.c_int),
        ("addr", ctypes.c_void_p),
    )


class _SigAction(ctypes.Structure):
    """struct sigaction of glibc and musl, on x86-64 and aarch64."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * (1024 // (8 * ctypes.sizeof(ctypes.c_ulong)))),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(_SigInfo), ctypes.c_void_p)

_libc = ctypes.CDLL(None)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)


class _Buffer(ctypes.Structure):
    """Py_buffer of CPython."""

    _fields_ = (("address", ctypes.c_void_p), ("rest", ctypes.c_void_p * 9))


def address_of(mapping: mmap.mmap) -> int:
    """The address of the mapping. Unlike ctypes' from_buffer, this works for a read-only one, too."""
    view = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapping), ctypes.byref(view), 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return view.address or 0


def _map_zeros(start: int, size: int, how: int) -> bool:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | how
    return bool(_libc.mmap(start, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == start)


def _replace(area: Area, address: int) -> bool:
    """Map zeros in place of the file.

    The whole mapping is replaced at once: the guest is disconnected anyway, and one mapping in place of another does
    not count against vm.max_map_count, however many pages fail. The kernel can refuse this in two cases. Where memory
    may not be overcommitted, it refuses a large mapping: one page is enough until the guest is disconnected. At the
    limit of mappings it refuses any: the old mapping is removed first. Another thread could map something there in
    between; then this fails.
    """
    size = area.stop - area.start
    if _map_zeros(area.start, size, _MAP_FIXED):
        return True
    first = max(address & -area.page, area.start)
    last = min((address & -area.page) + area.page, area.stop)
    if _map_zeros(first, last - first, _MAP_FIXED):
        return True
    _libc.munmap(area.start, size)
    return _map_zeros(area.start, size, _MAP_FIXED_NOREPLACE)


@contextmanager
def survived(lost: Callable[[], object]) -> Iterator[None]:
    """Recover from the loss of mapped memory. `lost` is called once for each mapping, from within the failed access,
    and may only schedule a later check."""

    def handler(number: int, info: ctypes._Pointer[_SigInfo], context: int | None) -> None:
        # Why Python may run here. The failed access is a plain copy, load or store by a thread that runs Python. The
        # thread is in no system call (those fail with EFAULT), in no allocation and in no lock, as none of them
        # touches guest memory. If the thread holds the GIL, ctypes takes it again; if not, ctypes waits for it, and no
        # holder of the GIL waits for this thread. The code that changes `_areas` touches no guest memory, so the table
        # is consistent here; iteration uses a copy because a collection within this handler may free a mapping.
        # SIGBUS is blocked meanwhile: a second one, from the handler, ends the process. A child of fork() has the
        # handler and a copy of the table until it calls exec(), and both are valid there.
        try:
            if info.contents.code == _BUS_ADRERR:
                address = info.contents.addr or 0
                area = _find(address)
                if area is not None and _replace(area, address):
                    if not area.lost:
                        area.lost = True
                        lost()
                    return
        except BaseException:  # a plain return would repeat the failed access for ever
            pass
        _libc.signal(signal.SIGBUS, None)
        signal.raise_signal(signal.SIGBUS)  # at the return

    kept = _HANDLER(handler)  # as long as it is installed
    new, old = _SigAction(handler=ctypes.cast(kept, ctypes.c_void_p), flags=_SA_SIGINFO), _SigAction()
    _libc.sigaction(signal.SIGBUS, ctypes.byref(new), ctypes.byref(old))
    try:
        yield
    finally:
        _libc.sigaction(signal.SIGBUS, ctypes.byref(old), None)

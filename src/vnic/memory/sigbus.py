"""Outliving a guest that takes away the memory it shares with us: every access to a page that is gone is a SIGBUS.

A page is gone when the guest's side truncated the file, and also when there is no room for it: a sparse file on a full
tmpfs, or on hugetlbfs with no huge page free. A signal handler of Python's own would never run, as the access that
failed is tried again first. So the handler is a C function (of ctypes) that runs within the access: it replaces the
mapping by zeros of our own, marks it lost, and the access succeeds. The loop then cuts the guest off that shared it.

What can be replaced is known: `watch` lists the mappings of guest memory (`virtio.mapping`), each from before its first
access until right before it is unmapped. An address outside of them is a fault of ours, and the end of the process.
`vnic run` lives inside of `survived`.
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
    """An access failed. What is read here from then on means nothing."""


_areas: dict[int, Area] = {}


def watch(area: Area) -> None:
    """Survive accesses to this mapping that fail."""
    _areas[area.start] = area


def forget(area: Area) -> None:
    """The mapping is about to go: its addresses may be anyone's then. Idempotent."""
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
    """Where it is mapped; unlike ctypes' from_buffer also for one that is read-only."""
    view = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapping), ctypes.byref(view), 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return view.address or 0


def _map_zeros(start: int, size: int, how: int) -> bool:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | how
    return bool(_libc.mmap(start, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == start)


def _replace(area: Area, address: int) -> bool:
    """Put zeros of our own where the file was.

    The whole mapping at once: the guest is cut off anyway, and one mapping in place of another takes none of the
    vm.max_map_count that the process may have, however many pages fail. What is refused then is either a large mapping
    where memory may not be overcommitted: the one page has to do until the guest is cut off; or any mapping, as there
    are too many: unmapped first, it can be made. Another thread could map something there in between; then this fails.
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
    """Survive the loss of mapped memory. `lost` is called for each mapping, from within the access that failed, and may
    do no more than have somebody look into it later."""

    def handler(number: int, info: ctypes._Pointer[_SigInfo], context: int | None) -> None:
        # Why Python may run here. The access that failed is a plain copy or a load or store, made by a thread that runs
        # Python: in no system call (those fail with EFAULT), in no allocation, in no lock, as none of them touches a
        # guest's memory. Where it holds the interpreter's lock, ctypes takes it once more; where not, it waits for it,
        # and nobody who holds it waits for this thread. `_areas` is changed by code that touches no guest's memory, so
        # it is never half changed; the copy of its values stands if a collection within this handler frees a mapping.
        # SIGBUS is blocked meanwhile: a second one, of the handler itself, ends the process. A child of fork() has the
        # handler and a copy of the table until it calls exec(), and both are right there.
        try:
            if info.contents.code == _BUS_ADRERR:
                address = info.contents.addr or 0
                area = _find(address)
                if area is not None and _replace(area, address):
                    if not area.lost:
                        area.lost = True
                        lost()
                    return
        except BaseException:  # to return as if all were well would have the access fail again, for ever
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

"""Outliving a guest that truncates the memory file it shares with us: every access to a page that is gone is a SIGBUS.

A signal handler of Python's own would never run, as the access that failed is tried again first. Like libwayland for
the pools of its clients, the handler puts a page of zeros in the place of the one that is gone, so that the access
succeeds; whose memory it was is then looked up in the loop, and that guest is cut off. `vnic run` lives inside of it.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

PAGE_SIZES: Final = (mmap.PAGESIZE, 2 << 20, 1 << 30)
"""What can be put in place: a page, and where that is refused, as the memory is made of huge ones, one of those."""

_SA_SIGINFO: Final = 4
_BUS_ADRERR: Final = 2
_MAP_FIXED: Final = 0x10


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


def _replace_page(address: int) -> bool:
    """Put zeros, in memory of our own, where a page of a file was."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    for size in PAGE_SIZES:
        start = address & -size
        if _libc.mmap(start, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == start:
            return True
    return False


@contextmanager
def survived(lost: Callable[[], object]) -> Iterator[None]:
    """Survive the loss of mapped memory. `lost` is called for each page, from within the access that failed, and may
    do no more than have somebody look into it later."""

    def handler(number: int, info: ctypes._Pointer[_SigInfo], context: int | None) -> None:
        # The access that failed is a plain copy from or to a mapping, made by this thread with the interpreter's lock.
        # Only mapped files can fail with this code; any other SIGBUS is a fault of ours, and the end.
        if info.contents.code == _BUS_ADRERR and _replace_page(info.contents.addr or 0):
            lost()
        else:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)

    kept = _HANDLER(handler)  # as long as it is installed
    new, old = _SigAction(handler=ctypes.cast(kept, ctypes.c_void_p), flags=_SA_SIGINFO), _SigAction()
    _libc.sigaction(signal.SIGBUS, ctypes.byref(new), ctypes.byref(old))
    try:
        yield
    finally:
        _libc.sigaction(signal.SIGBUS, ctypes.byref(old), None)

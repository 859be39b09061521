"""Finds the kind of a descriptor that a peer passed, without a call into its file system, and closes descriptors.

Every user of descriptors from a socket calls it first. fstat, mmap and close of a file on FUSE wait for a daemon that
may belong to the sender and may never answer, so the loop's thread uses only `HARMLESS` descriptors.
"""

from __future__ import annotations

import enum
import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

_F_GET_SEALS: Final = 1034
"""include/uapi/linux/fcntl.h. Succeeds for files of shmem (memfd, tmpfs) and hugetlbfs, and for no others."""


class Kind(enum.Enum):
    """The kind of an open file; the value is its name in texts."""

    EVENTFD = "an eventfd"
    SOCKET = "a socket"
    PIPE = "a pipe"
    MEMORY = "a memory file"
    """A file of shmem or hugetlbfs: its operations never wait for another process."""
    ANONYMOUS = "an anonymous file"
    """Another file of the kernel's own: epoll, timerfd, io_uring, …"""
    FILE = "a file"
    """A file, folder, device or named pipe of some file system, which may be FUSE."""
    CLOSED = "a closed descriptor"


HARMLESS: Final = (Kind.EVENTFD, Kind.SOCKET, Kind.PIPE, Kind.MEMORY)  # an Enum computes its hash in Python
"""The kinds that a message may carry. Their close does not block, except for a socket's SO_LINGER (see `unblock`)."""

NOTIFIERS: Final = (Kind.EVENTFD, Kind.SOCKET, Kind.PIPE)
"""The kinds that can be a kick, a call or an interrupt; User-Mode Linux passes socketpairs."""

_BY_PREFIX: Final = (
    ("anon_inode:[eventfd", Kind.EVENTFD),
    ("anon_inode:", Kind.ANONYMOUS),
    ("socket:", Kind.SOCKET),
    ("pipe:", Kind.PIPE),
)


def seals_of(fd: int) -> int | None:
    """The seals (F_SEAL_…) of a file of shmem or hugetlbfs; None for anything else. Never waits."""
    try:
        return fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        return None


def name_of(fd: int) -> str:
    """The kernel's name of an open file, `anon_inode:[eventfd]` or a path; "" if it is unknown. Never blocks: the
    kernel makes it from memory (d_path)."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def kind_of(fd: int) -> Kind:
    """The kind of `fd`. Never blocks or raises; without /proc, everything but a memory file is a FILE."""
    name = name_of(fd)
    for prefix, kind in _BY_PREFIX:
        if name.startswith(prefix):
            return kind
    if seals_of(fd) is not None:
        return Kind.MEMORY
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return Kind.CLOSED
    return Kind.FILE


_close: Callable[[int], None] = os.close


def close_with(close: Callable[[int], None]) -> None:
    """Set the function that `close_fds` uses. `vnic.sockets.unblock`, through which all descriptors of peers arrive,
    sets one that never blocks when it is imported."""
    global _close
    _close = close


def close_fds(fds: Iterable[int]) -> None:
    """Close every descriptor, of whatever kind. One that is already closed is no error."""
    for fd in fds:
        try:
            _close(fd)
        except OSError:
            pass


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a file is mounted."""

    kind: str
    """The file system's type: `ext4`, `fuse.sshfs`."""
    device: int
    """The minor number of its device, which is the connection's number for FUSE (Linux, fuse.rst)."""


def mount_of(fd: int) -> Mount | None:
    """The mount of an open file, None if it is not in this process's mount namespace. Never blocks."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as info:
            fields = dict(line.split(":", 1) for line in info if ":" in line)
        wanted = fields["mnt_id"].strip()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                words = line.split()
                if words[0] == wanted:
                    return Mount(words[words.index("-") + 1], int(words[2].partition(":")[2]))
    except (OSError, KeyError, ValueError, IndexError):
        pass
    return None

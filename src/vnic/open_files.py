"""Tells whether two descriptors are of one open file, as the kernel can: by inode, by the number that /proc tells of an
anonymous one, or else with kcmp(2). The keeper's table and connections that outlive a process use it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import re
import stat
from typing import Final, NamedTuple

from vnic.descriptors import seals_of

_F_DUPFD_QUERY: Final = 1027
"""include/uapi/linux/fcntl.h, Linux 6.10: whether two descriptors are of one open file."""
_KCMP_NUMBERS: Final = {"x86_64": 312, "aarch64": 272, "riscv64": 272}
_KCMP_FILE: Final = 0
_EVENTFD: Final = "eventfd-id:"
_TELLING: Final = re.compile(f"^(?:{_EVENTFD}|Pid:).*$", re.MULTILINE)
"""The line of /proc/PID/fdinfo/FD that tells one anonymous file from another."""


class Identity(NamedTuple):
    """Equal for descriptors of one file. Not `certain`: different files may have it, too, such as the pidfds of two
    processes that had the same number one after the other, or have ended."""

    device: int
    inode: int
    access: int
    """O_RDONLY, O_WRONLY or O_RDWR: the two ends of a pipe are one inode."""
    told: str
    certain: bool


def identity_of(fd: int) -> Identity:
    """Raises OSError if `fd` is not open. The inode of a socket, pipe or memory file and an eventfd's id are not
    given to another one while the keeper has the file."""
    found = os.fstat(fd)
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    told, kind = "", stat.S_IFMT(found.st_mode)
    certain = kind in (stat.S_IFSOCK, stat.S_IFIFO) or (kind == stat.S_IFREG and seals_of(fd) is not None)
    if not certain and kind != stat.S_IFCHR:
        told = _told(fd)
        certain = told.startswith(_EVENTFD)
    return Identity(found.st_dev, found.st_ino, access, told, certain)


def _told(fd: int) -> str:
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(info, 4096).decode("ascii", "replace")
    finally:
        os.close(info)
    found = _TELLING.search(text)
    return found[0] if found else ""


def same_file(one: int, other: int) -> bool:
    """Whether two descriptors are of one open file description; False, too, if the kernel does not tell."""
    try:
        return fcntl.fcntl(one, _F_DUPFD_QUERY, other) == 1
    except OSError:
        pass  # an older kernel
    number = _KCMP_NUMBERS.get(platform.machine())
    if number is None:
        return False
    me = os.getpid()
    return ctypes.CDLL(None).syscall(number, me, me, _KCMP_FILE, one, other) == 0  # type: ignore[no-any-return]


def is_one_file(one: int, other: int) -> bool:
    """Whether two descriptors are of one file. Raises OSError if one is closed."""
    found = identity_of(one)
    return found == identity_of(other) and (found.certain or same_file(one, other))

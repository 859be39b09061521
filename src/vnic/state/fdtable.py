"""FdTable: which open files the keeper has, under which names, and how many units use them.

systemd's store has one name for each open file, so a file that two units use is stored once. Open files are compared as
the kernel can: by inode, by the number that /proc tells of an anonymous one, or else with kcmp(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import stat
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from vnic.descriptors import seals_of

_PREFIX: Final = "~"
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
"""A name is as short as possible: systemd passes all of them in one variable, of at most 128 KiB on Linux."""

_F_DUPFD_QUERY: Final = 1027
"""include/uapi/linux/fcntl.h, Linux 6.10: whether two descriptors are of one open file."""
_KCMP_NUMBERS: Final = {"x86_64": 312, "aarch64": 272, "riscv64": 272}
_KCMP_FILE: Final = 0
_EVENTFD: Final = "eventfd-id:"
_TELLING: Final = re.compile(f"^(?:{_EVENTFD}|Pid:).*$", re.MULTILINE)
"""The line of /proc/PID/fdinfo/FD that tells one anonymous file from another."""


MOST_FILES: Final = 16_000
"""As many as fit with their names into that variable, if the keeper does not say otherwise."""


def name_for(number: int) -> str:
    """The name of the file with that number."""
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return _PREFIX + digits


def number_of(name: str) -> int | None:
    """The number in a name of `name_for`; None for any other name."""
    digits = name.removeprefix(_PREFIX)
    if digits == name or not 0 < len(digits) <= 12 or not set(digits) <= set(_DIGITS):
        return None
    return int(digits, 36)


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


class Files(Protocol):
    """What the table needs from the keeper's protocol. Both raise NotifyError."""

    def store(self, name: str, fd: int) -> None: ...

    def remove(self, name: str) -> None: ...


class _File:
    """A file that the keeper has."""

    def __init__(self, name: str, identity: Identity, own_fd: int | None) -> None:
        self.name = name
        self.identity = identity
        self.own_fd = own_fd
        """A duplicate for comparing, unless the identity is certain."""
        self.users = 0


class FdTable:
    """The files in the keeper. A unit's files are entered, then its record is committed, then they count as used."""

    def __init__(self, keeper: Files, next_number: Callable[[], int], most: int = MOST_FILES) -> None:
        self._keeper = keeper
        self._next_number = next_number
        self._most = most
        self._files: dict[str, _File] = {}
        self._by_identity: dict[Identity, list[_File]] = {}
        self.removals = 0
        """The number of removals that the keeper was told."""

    def __len__(self) -> int:
        return len(self._files)

    def adopt(self, name: str, fd: int) -> None:
        """The keeper has this file from the process before. It stays until `sweep`. Raises OSError."""
        self._enter(name, fd)

    def name(self, fd: int) -> str:
        """The name of a file, which the keeper gets if it is new. Raises NotifyError, and OSError, also if the keeper
        has no room for it."""
        identity = identity_of(fd)
        for file in self._by_identity.get(identity, ()):
            if file.own_fd is None or same_file(file.own_fd, fd):
                return file.name
        if len(self._files) >= self._most:
            raise OSError(errno.ENFILE, f"the keeper takes no more than {self._most} descriptors")
        name = name_for(self._next_number())
        self._keeper.store(name, fd)
        self._enter(name, fd, identity)
        return name

    def use(self, names: Iterable[str]) -> None:
        """A committed record names these."""
        for name in names:
            self._files[name].users += 1

    def release(self, names: Iterable[str]) -> None:
        """A record that named these is committed no more; what no record names is removed. Raises NotifyError."""
        for name in names:
            file = self._files[name]
            file.users -= 1
            if not file.users:
                self._remove(file)

    def drop_unused(self, names: Iterable[str]) -> None:
        """Remove those of these that no record names. Raises NotifyError."""
        for name in names:
            file = self._files.get(name)
            if file is not None and not file.users:
                self._remove(file)

    def sweep(self) -> None:
        """Remove everything that no record names. Raises NotifyError."""
        for file in list(self._files.values()):
            if not file.users:
                self._remove(file)

    def clear(self) -> None:
        """Remove everything. Raises NotifyError."""
        for file in list(self._files.values()):
            self._remove(file)

    def _enter(self, name: str, fd: int, identity: Identity | None = None) -> None:
        found = identity_of(fd) if identity is None else identity
        own = None if found.certain else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        file = _File(name, found, own)
        self._files[name] = file
        self._by_identity.setdefault(found, []).append(file)

    def _remove(self, file: _File) -> None:
        del self._files[file.name]
        same = self._by_identity[file.identity]
        same.remove(file)
        if not same:
            del self._by_identity[file.identity]
        if file.own_fd is not None:
            os.close(file.own_fd)
        self.removals += 1
        self._keeper.remove(file.name)

"""FdTable: which open files the keeper has, under which names, and how many units use them.

systemd's store has one name for each open file, so a file that two units use is stored once.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from vnic.open_files import Identity, identity_of, same_file

_PREFIX: Final = "~"
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
"""A name is as short as possible: systemd passes all of them in one variable, of at most 128 KiB on Linux."""

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

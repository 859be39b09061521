"""Descriptors that clients pass on a monitor's UNIX socket, and that commands can name (QEMU's monitor/fds.c).

`getfd` names a descriptor in its monitor, `add-fd` puts one into a set of the machine; `fd=` of netdevs and chardevs
takes them from here. Only passed and inherited descriptors can be named by number. No function here calls into a
descriptor's file system, which the sender may control.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection
from typing import Final, ParamSpec, Protocol, TypeVar

import msgspec

from vnic.descriptors import Kind, close_fds, kind_of
from vnic.net.errors import NetError

P = ParamSpec("P")
T = TypeVar("T")

NAMES_MAX: Final = 256
"""The most named descriptors of one monitor."""
SETS_FDS_MAX: Final = 1024
"""The most descriptors in all sets."""


def inherited_fds() -> frozenset[int]:
    """The inherited descriptors, except the standard ones. Call it before the process opens any: only inherited
    descriptors have survived exec(), and so lack FD_CLOEXEC."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.add(int(name))
        except OSError:
            pass  # the folder that is being listed
    return frozenset(found)


class FdSource(Protocol):
    """The source of a client's descriptors: its channel."""

    def take_fd(self) -> int | None:
        """The first descriptor of the last message, which the caller owns; the others are closed."""


class NoSource:
    """The source of a client that cannot pass descriptors."""

    def take_fd(self) -> int | None:
        return None


class NamedFds:
    """The named descriptors of a monitor; they remain after the client disconnects, as in QEMU."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def add(self, name: str, fd: int) -> None:
        """Take over `fd`; it replaces the descriptor of that name."""
        if name not in self._fds and len(self._fds) >= NAMES_MAX:
            close_fds([fd])
            raise NetError(f"This monitor keeps {NAMES_MAX} file descriptors already: close some")
        before = self._fds.get(name)
        self._fds[name] = fd
        if before is not None:
            close_fds([before])

    def take(self, name: str) -> int | None:
        return self._fds.pop(name, None)

    def close_one(self, name: str) -> None:
        """`closefd`. Raises NetError."""
        fd = self.take(name)
        if fd is None:
            raise NetError(f"File descriptor named '{name}' not found")
        close_fds([fd])

    def close(self) -> None:
        close_fds(self._fds.values())
        self._fds.clear()


class Passed:
    """The descriptors of a client: those of its last message, and the named ones of its monitor."""

    def __init__(self, source: FdSource | None = None, named: NamedFds | None = None) -> None:
        self._source = source or NoSource()
        self.named = named or NamedFds()

    def take(self) -> int:
        """The descriptor that was passed with this command. Raises NetError."""
        fd = self._source.take_fd()
        if fd is None:
            raise NetError("No file descriptor supplied via SCM_RIGHTS")
        return fd

    def name(self, name: str) -> None:
        """`getfd`. Raises NetError."""
        fd = self.take()
        if name[:1].isdecimal():
            close_fds([fd])
            raise NetError("Parameter 'fdname' expects a name not starting with a digit")
        self.named.add(name, fd)


class FdsetFdInfo(msgspec.Struct, rename="kebab", omit_defaults=True):
    fd: int
    opaque: str | None = None


class FdsetInfo(msgspec.Struct, rename="kebab"):
    fdset_id: int
    fds: list[FdsetFdInfo]


class FdSets:
    """The sets of `add-fd`, by number."""

    def __init__(self) -> None:
        self._sets: dict[int, list[FdsetFdInfo]] = {}

    def add(self, fd: int, set_id: int | None, opaque: str | None) -> int:
        """Take over `fd` into an existing or a new set. Returns the set's number."""
        try:
            if set_id is None:
                set_id = next(number for number in range(len(self._sets) + 1) if number not in self._sets)
            elif set_id < 0:
                raise NetError("Parameter 'fdset-id' expects a non-negative value")
            if sum(map(len, self._sets.values())) >= SETS_FDS_MAX:
                raise NetError(f"The sets hold {SETS_FDS_MAX} file descriptors already: remove some")
        except NetError:
            close_fds([fd])
            raise
        self._sets.setdefault(set_id, []).append(FdsetFdInfo(fd, opaque))
        return set_id

    def remove(self, set_id: int, fd: int | None) -> None:
        """Remove one descriptor of a set, or all of them; an empty set is deleted."""
        members = self._sets.get(set_id, [])
        going = [each for each in members if fd is None or each.fd == fd]
        if not going:
            name = f"fdset-id:{set_id}" + (f", fd:{fd}" if fd is not None else "")
            raise NetError(f"File descriptor named '{name}' not found")
        close_fds(each.fd for each in going)
        self._sets[set_id] = [each for each in members if each not in going]
        if not self._sets[set_id]:
            del self._sets[set_id]

    def __contains__(self, fd: int) -> bool:
        return any(each.fd == fd for members in self._sets.values() for each in members)

    def info(self) -> list[FdsetInfo]:
        """In QEMU's order: the highest number first."""
        return [FdsetInfo(set_id, self._sets[set_id]) for set_id in sorted(self._sets, reverse=True)]

    def close(self) -> None:
        for members in self._sets.values():
            close_fds(each.fd for each in members)
        self._sets.clear()


class FdRegistry:
    """All descriptors that the options of one machine can name."""

    def __init__(self, inherited: Collection[int] = ()) -> None:
        """`inherited`: see `inherited_fds`."""
        self.sets = FdSets()
        self._inherited = set(inherited)
        self._speaking: NamedFds | None = None

    def run(self, named: NamedFds, command: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
        """Run a monitor's command; its names apply meanwhile (monitor_cur)."""
        before, self._speaking = self._speaking, named
        try:
            return command(*arguments, **more)
        finally:
            self._speaking = before

    def take(self, name: str) -> int:
        """The descriptor that `fd=` names; the caller owns it, non-blocking (monitor_fd_param). Raises NetError."""
        if name[:1].isdecimal() or self._speaking is None:
            return self._numbered(name)
        return self._of_monitor(name)

    def take_socket(self, name: str) -> int:
        """The same for the `str` of an address of type `fd`: only a monitor's names, and only a socket
        (socket_get_fd)."""
        if self._speaking is None:
            if not _is_number(name):
                raise NetError(f"Unable to parse FD number {name}")
            fd = self._numbered(name)
        else:
            fd = self._of_monitor(name)
        if kind_of(fd) is not Kind.SOCKET:
            close_fds([fd])
            raise NetError(f"File descriptor '{name}' is not a socket")
        return fd

    def _of_monitor(self, name: str) -> int:
        fd = self._speaking.take(name) if self._speaking is not None else None
        if fd is None:
            raise _not_found(name)
        return _made_ours(fd)

    def _numbered(self, name: str) -> int:
        if not _is_number(name):
            raise NetError(f"Invalid file descriptor number '{name}'")
        fd = int(name)
        if fd in self._inherited:
            self._inherited.remove(fd)
        elif fd in self.sets:
            fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        else:
            try:
                fcntl.fcntl(fd, fcntl.F_GETFD)
            except (OSError, OverflowError) as error:
                reason = error.strerror if isinstance(error, OSError) else "Bad file descriptor"
                raise NetError(f"Can't use file descriptor {name}: {reason}") from None
            raise _not_found(name)  # one of vnic's own
        try:
            return _made_ours(fd)
        except OSError as error:  # an earlier option took it, or it was closed
            raise NetError(f"Can't use file descriptor {name}: {error.strerror}") from None

    def close(self) -> None:
        self.sets.close()


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 10


def _not_found(name: str) -> NetError:
    return NetError(f"File descriptor named '{name}' has not been found")


def _made_ours(fd: int) -> int:
    """Neither call reaches the file system: the kernel handles both (fcntl(2), FIONBIO of ioctl(2))."""
    os.set_inheritable(fd, False)
    os.set_blocking(fd, False)
    return fd

"""Binds UNIX sockets to paths. Every part of vnic that listens at a path, or receives datagrams there, calls it.

It locks the path first (`lock`): the lock shows without a connection whether another vnic uses the path. It replaces a
stale socket of the same user: one that no program is bound to, which a killed program left behind. Anything else at the
path stays there and is an error, whereas QEMU unlinks any file. `resolve.unix_sockaddr` has checked the form of the
path before.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from typing import Final

from vnic.net.errors import NetError
from vnic.record import U64, Record
from vnic.sockets.diag import is_in_use
from vnic.sockets.lock import PathError, PathLock

SUN_PATH_BYTES: Final = 108
"""sizeof(sockaddr_un.sun_path): a path has one byte less, because a NUL ends it."""

PRIVATE: Final = 0o600
"""The mode of a socket whose address has no `mode=`."""

_WORDS: Final = (
    (stat.S_ISREG, "a plain file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
)


def socket_mode(text: str | None) -> int:
    """The permissions of `mode=`, in octal as for chmod; NetError for an invalid value."""
    if text is None:
        return PRIVATE
    if not re.fullmatch("0?[0-7]{3}", text):
        raise NetError(f"Parameter 'mode' expects permissions in octal, such as 0660, not '{text}'")
    return int(text, 8)


class BoundPathRecord(Record, frozen=True):
    """A path that a socket is bound to, and the file that was there."""

    path: str
    device: U64
    inode: U64


class BoundPath:
    """A path that a socket is bound to. `remove` unlinks it, unless another program has replaced it."""

    def __init__(self, path: str, lock: PathLock | None = None) -> None:
        self.path = os.path.abspath(path)
        self._lock = lock
        self._inode = _inode(self.path)

    @classmethod
    def of(cls, sock: socket.socket) -> BoundPath | None:
        """The path of a bound socket that was passed; None for a socket without a path."""
        name = sock.getsockname()
        is_path = sock.family == socket.AF_UNIX and isinstance(name, str) and name
        return cls(name) if is_path else None

    def save(self) -> BoundPathRecord:
        device, inode = self._inode or (0, 0)
        return BoundPathRecord(path=self.path, device=device, inode=inode)

    @property
    def lock(self) -> int | None:
        """The descriptor that belongs to the record."""
        return None if self._lock is None else self._lock.fd

    @classmethod
    def taken_up(cls, record: BoundPathRecord, lock: int | None) -> BoundPath:
        """The path of the process whose place this one takes; `lock` is this one's then. Raises OSError."""
        bound = cls(record.path, None if lock is None else PathLock.taken_up(record.path, lock))
        bound._inode = (record.device, record.inode)
        return bound

    @property
    def is_there(self) -> bool:
        """Whether the path is still that of the socket, so that clients find it."""
        return self._inode is not None and _inode(self.path) == self._inode

    def remove(self) -> None:
        """Unlink the path and release its lock. It may be called again."""
        if self.is_there:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # the folder is no longer ours
        self._inode = None
        if self._lock is not None:
            self._lock.release()


def bind_path(sock: socket.socket, path: str, *, mode: int = PRIVATE) -> BoundPath:
    """Bind a UNIX socket to `path`, which has the permissions `mode` from the start. Raises PathError."""
    lock = PathLock(path)
    try:
        _make_room(path, in_use_by_dead=lock.from_dead)
        os.fchmod(
            sock.fileno(), mode
        )  # Linux unix_bind() gives the path the mode of the socket, minus the umask
        umask = os.umask(0)
        try:
            sock.bind(path)
        finally:
            os.umask(umask)
    except OSError as error:
        lock.release()
        raise PathError(error.strerror or str(error)) from None
    except PathError:
        lock.release()
        raise
    return BoundPath(path, lock)


def _make_room(path: str, *, in_use_by_dead: bool) -> None:
    """Remove a stale socket. Raises PathError for any other file."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        word = next((word for test, word in _WORDS if test(found.st_mode)), "a device")
        raise PathError(f"{word} is there, which is left alone")
    if found.st_uid != os.geteuid():
        raise PathError(f"a socket of user {found.st_uid} is there, which is left alone")
    if not in_use_by_dead and is_in_use(path):
        raise PathError("another program listens there already")
    os.unlink(path)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino

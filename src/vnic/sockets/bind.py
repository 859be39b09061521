"""Binding a UNIX socket to a path: the one rule for what may be there already, for every socket that vnic makes.

A path is locked first (`lock`), which tells without a connection whether another vnic uses it. A socket that no program
is bound to was left by one that was killed, and is replaced if it is our user's. Everything else stays where it is and
is an error; QEMU unlinks whatever it finds. What a path may look like is checked before, by `resolve.unix_sockaddr`.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from typing import Final

from vnic.net.errors import NetError
from vnic.sockets.diag import is_in_use
from vnic.sockets.lock import PathError, PathLock

SUN_PATH_BYTES: Final = 108
"""sizeof(sockaddr_un.sun_path): a path has a byte less, for the NUL that ends it."""

PRIVATE: Final = 0o600
"""The mode of a socket without `mode=`."""

_WORDS: Final = (
    (stat.S_ISREG, "a plain file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
)


def socket_mode(text: str | None) -> int:
    """The permissions that `mode=` names, in octal as for chmod; NetError where it names none."""
    if text is None:
        return PRIVATE
    if not re.fullmatch("0?[0-7]{3}", text):
        raise NetError(f"Parameter 'mode' expects permissions in octal, such as 0660, not '{text}'")
    return int(text, 8)


class BoundPath:
    """A path that a socket is bound to: removed in the end, unless another program has put something there."""

    def __init__(self, path: str, lock: PathLock | None = None) -> None:
        self.path = os.path.abspath(path)
        self._lock = lock
        self._inode = _inode(self.path)

    @classmethod
    def of(cls, sock: socket.socket) -> BoundPath | None:
        """That of a bound socket which was passed to us; None for one without a path."""
        name = sock.getsockname()
        is_path = sock.family == socket.AF_UNIX and isinstance(name, str) and name
        return cls(name) if is_path else None

    def remove(self) -> None:
        """Remove the path and let go of its lock. May be called again."""
        if self._inode is not None and _inode(self.path) == self._inode:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # the folder is not ours any more
        self._inode = None
        if self._lock is not None:
            self._lock.release()


def bind_path(sock: socket.socket, path: str, *, mode: int = PRIVATE) -> BoundPath:
    """Bind a UNIX socket to `path`, which has the permissions `mode` from its first moment. Raises PathError."""
    lock = PathLock(path)
    try:
        _make_room(path, in_use_by_dead=lock.from_dead)
        os.fchmod(
            sock.fileno(), mode
        )  # Linux unix_bind() gives the path the mode of the socket, but for the umask
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
    """Remove a leftover. Raises PathError for anything else that is there."""
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

"""A lock on PATH.lock marks a path as used by a running vnic, as in Wayland's compositors.

`bind` takes it for each path. A test connection would be an event for the listener: the link of a NIC would flap. The
kernel releases the lock with the process, so the file of a killed vnic has no effect.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Final

SUFFIX: Final = ".lock"

ATTEMPTS: Final = 100
"""Another vnic may exit or start between our open and our lock. It limits the retries."""


class PathError(Exception):
    """The path cannot be used; `str()` is the reason, which follows QEMU's "Failed to bind socket to PATH: "."""


class PathLock:
    """This process owns the path until `release`."""

    def __init__(self, path: str) -> None:
        """Raises PathError if another vnic has the path, or if no lock file can be made."""
        self._path = os.path.abspath(path) + SUFFIX
        self.from_dead = False
        """The last holder was killed and cannot exit: it still has its socket, and will never serve it."""
        self._fd: int | None = self._take()

    def _take(self) -> int:
        for _ in range(ATTEMPTS):
            try:
                # O_NONBLOCK: another user may have put a named pipe there.
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                fd = os.open(self._path, flags, 0o600)
            except OSError as error:
                raise PathError(_reason(error, self._path)) from None
            try:
                if self._is_taken(fd):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, _identity(os.getpid()).encode(), 0)
                    return fd
            except OSError as error:
                os.close(fd)
                raise PathError(f"{self._path}: {error.strerror}") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise PathError(f"{self._path} keeps changing")

    def _is_taken(self, fd: int) -> bool:
        """Whether we have the lock now; False: retry."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise PathError(f"{self._path} is there and is no lock file")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 64, 0).decode(errors="replace")
            if not _is_dead(holder):
                raise PathError(f"{_name(holder)} listens there already") from None
            self._unlink(found)
            self.from_dead = True
            return False
        return _same(found, self._path)

    def _unlink(self, found: os.stat_result) -> None:
        if _same(found, self._path):
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass

    def release(self) -> None:
        """Release the path and remove the lock file. It may be called again."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            self._unlink(os.fstat(fd))
        except OSError:
            pass  # a file that stays has no effect
        # Unlock explicitly: a thread that blocks in close(2) would keep the table of descriptors (see closers).
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _reason(error: OSError, path: str) -> str:
    """The reason in the words of bind(2), if the folder is the cause."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EROFS):
        return error.strerror or str(error)
    if error.errno == errno.EACCES and not os.path.lexists(path):
        return error.strerror or str(error)
    if error.errno == errno.ELOOP:
        return f"{path} is a symbolic link"
    return f"{path}: {error.strerror}"


def _same(found: os.stat_result, path: str) -> bool:
    try:
        return os.path.samestat(found, os.lstat(path))
    except OSError:
        return False


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third, the state, on (proc_pid_stat(5)). OSError if the process does not
    exist."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _identity(pid: int) -> str:
    """The identity of a process: its number and its start time, because numbers are reused."""
    try:
        return f"{pid} {_stat_fields(pid)[19]}\n"
    except (OSError, IndexError):
        return f"{pid}\n"


def _is_dead(holder: str) -> bool:
    """Whether the lock's holder was killed, and exists only because the kernel cannot end one of its threads (see
    closers)."""
    words = holder.split()
    try:
        fields = _stat_fields(int(words[0]))
        return fields[0] in "ZX" and fields[19] == words[1]
    except (OSError, ValueError, IndexError):
        return False


def _name(holder: str) -> str:
    pid = holder.split(" ")[0].strip()
    if pid == str(os.getpid()):
        return "this vnic"
    return f"another vnic (process {pid})" if pid.isdecimal() else "another vnic"

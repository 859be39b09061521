"""A lock on PATH.lock marks a path as used by a running vnic, as in Wayland's compositors.

`bind` takes it for each path. A test connection would be an event for the listener: the link of a NIC would flap. The
kernel releases the lock with the process, so the file of a killed vnic has no effect. It is held as long as the path is
used, because a vnic in another network namespace can find out in no other way that it is (see `diag`).

All PATH.lock of a process on one file system are hard links to one locked file: ten thousand paths cost one descriptor.
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


class _LockFile:
    """A locked file of this process, and the paths that are links to it."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._paths = {path}

    def link(self, path: str) -> bool:
        """Make `path` a link to the file. False: there is a file, or this one can have no link there."""
        if not self._paths:
            return False
        try:
            # os.link follows the symbolic link (AT_SYMLINK_FOLLOW) only if it is given some folder's descriptor.
            os.link(f"/proc/self/fd/{self._fd}", path, src_dir_fd=self._fd)
        except OSError:
            return False
        self._paths.add(path)
        return True

    def take_up(self, path: str) -> bool:
        """`path` is a link to the file, as it was before. False: the file is closed, or `path` is in use."""
        if not self._paths or path in self._paths:
            return False
        self._paths.add(path)
        return True

    def unlink(self, path: str) -> None:
        try:
            _unlink(os.fstat(self._fd), path)
        except OSError:
            pass  # the folder is no longer ours
        self._paths.discard(path)
        if not self._paths:
            # Unlock explicitly: a thread that blocks in close(2) would keep the table of descriptors (see closers).
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)

    @property
    def fd(self) -> int:
        return self._fd


_newest: Final[dict[int, _LockFile]] = {}
"""By file system: the file that further paths become links to."""
_inherited: Final[dict[tuple[int, int], _LockFile]] = {}
"""By device and inode: the files of the process whose place this one takes."""


class PathLock:
    """This process owns the path until `release`."""

    def __init__(self, path: str, *, alone: bool = False, use: str = "listens there already") -> None:
        """Raises PathError if another vnic has the path, or if no lock file can be made.

        `alone`: the lock file is no link to another one's, so that any thread may take it. `use` is what the error says
        of the other vnic."""
        self._path = os.path.abspath(path) + SUFFIX
        self._alone = alone
        self._use = use
        self.from_dead = False
        """The last holder was killed and cannot exit, or it was the process whose place this one takes: its socket may
        still be there, and no one will serve it."""
        self._refusal = PathError(f"{self._path} keeps changing")
        self._file: _LockFile | None = self._take()

    @classmethod
    def taken_up(cls, path: str, fd: int) -> PathLock:
        """The lock of the process whose place this one takes: `fd` is a duplicate of its descriptor, with the lock.
        Raises OSError, and leaves `fd` to the caller then."""
        lock = cls.__new__(cls)
        lock._path, lock._alone = os.path.abspath(path) + SUFFIX, False
        lock._file = _take_up(fd, lock._path)
        return lock

    @property
    def fd(self) -> int | None:
        """The descriptor with the lock, which other paths may have, too; None after `release`."""
        return None if self._file is None else self._file.fd

    def _take(self) -> _LockFile:
        for _ in range(ATTEMPTS):
            try:
                inherited = None if self._alone else _inherited_at(self._path)
                if inherited is not None:
                    self.from_dead = True
                    return inherited
                device = os.stat(os.path.dirname(self._path)).st_dev
                shared = None if self._alone else _newest.get(device)
                if shared is not None and shared.link(self._path):
                    return shared
                # The first path, or there is a lock file, or there are no links here or too many (EMLINK).
                # O_NONBLOCK: another user may have put a named pipe there.
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                fd = os.open(self._path, flags, 0o600)
            except OSError as error:
                raise PathError(_reason(error, self._path)) from None
            try:
                found = os.fstat(fd)
                if self._is_taken(fd, found) and not self._replaces(found):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, _identity(os.getpid()).encode(), 0)
                    file = _LockFile(fd, self._path)
                    if found.st_uid == os.geteuid() and not self._alone:
                        _newest[device] = file
                    return file
            except OSError as error:
                os.close(fd)
                raise PathError(f"{self._path}: {error.strerror}") from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise self._refusal

    def _is_taken(self, fd: int, found: os.stat_result) -> bool:
        """Whether we have the lock now; False: retry."""
        if not stat.S_ISREG(found.st_mode):
            raise PathError(f"{self._path} is there and is no lock file")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 64, 0).decode(errors="replace")
            self._refusal = PathError(f"{_name(holder)} {self._use}")
            if _is_gone(holder):
                # Another vnic replaces the file just now (`_replaces`), or the holder is in another PID namespace.
                os.sched_yield()
                return False
            if not _is_dead(holder):
                raise self._refusal from None
            _unlink(found, self._path)
            self.from_dead = True
            return False
        return _same(found, self._path)

    def _replaces(self, found: os.stat_result) -> bool:
        """Whether the path was made free of a killed vnic's lock file that other paths are links to. They must not
        become ours with it: another vnic may use them."""
        if found.st_nlink == 1:
            return False
        _unlink(found, self._path)
        return True

    def release(self) -> None:
        """Release the path and remove the lock file. It may be called again."""
        file, self._file = self._file, None
        if file is not None:
            file.unlink(self._path)


def _take_up(fd: int, path: str) -> _LockFile:
    """The file of that descriptor, which is this process's from now on, for `path`."""
    found = os.fstat(fd)
    key = found.st_dev, found.st_ino
    there = _inherited.get(key)
    if there is not None and there.take_up(path):
        os.close(fd)
        return there
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it has it: no other descriptor of the file could
    os.ftruncate(fd, 0)
    os.pwrite(fd, _identity(os.getpid()).encode(), 0)
    file = _inherited[key] = _LockFile(fd, path)
    if found.st_uid == os.geteuid():
        _newest.setdefault(found.st_dev, file)
    return file


def _inherited_at(path: str) -> _LockFile | None:
    """The inherited file that is at `path`, for a path that is not taken up with its socket."""
    if not _inherited:
        return None
    try:
        found = os.lstat(path)
    except OSError:
        return None
    there = _inherited.get((found.st_dev, found.st_ino))
    return there if there is not None and there.take_up(path) else None


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


def _unlink(found: os.stat_result, path: str) -> None:
    """Remove the link `path` to that file, if it is one."""
    if _same(found, path):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


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


def _is_gone(holder: str) -> bool:
    """Whether no such process exists, as far as this one can see."""
    words = holder.split()
    if len(words) < 2:
        return False
    try:
        return _stat_fields(int(words[0]))[19] != words[1]
    except FileNotFoundError:
        return True
    except (OSError, ValueError, IndexError):
        return False


def _name(holder: str) -> str:
    pid = holder.split(" ")[0].strip()
    if pid == str(os.getpid()):
        return "this vnic"
    return f"another vnic (process {pid})" if pid.isdecimal() else "another vnic"

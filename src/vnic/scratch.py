"""Folders for temporary files. `vnic run` and the back-ends make them, and a start removes those of killed processes.

Each folder holds a file that its maker keeps locked; the kernel releases the lock when the maker ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# tempfile and shutil are imported late: a start of `vnic run` only looks for folders, and rarely finds one.

LOCK_NAME: Final = ".vnic-lock"
PUBLIC: Final = Path("/tmp")
PREFIXES: Final = ("vnic-passt-", "vnic-guest-", "vnic-demo-", "vnic-keep-")


class ScratchFolder:
    """A folder of mode 0700 in the folder for temporary files, or in `parent`. `remove` deletes it."""

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        import tempfile

        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            try:
                self._lock = os.open(
                    self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
                )
            except BaseException:
                self.path.rmdir()
                raise
            if _lock(self._lock) and _is_at(self._lock, self.path / LOCK_NAME):
                return
            os.close(self._lock)  # a vnic that started just now removed it as a leftover

    @classmethod
    def taken_up(cls, path: str, lock: int) -> ScratchFolder:
        """That of the process before, which kept `lock`; this object's then. OSError if `lock` is not that of a folder
        for temporary files at `path`."""
        folder = cls.__new__(cls)
        folder.path, folder._lock = Path(path), lock
        ours = folder.path.name.startswith(PREFIXES) and _is_at(lock, folder.path / LOCK_NAME)
        if not ours:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return folder

    @property
    def lock(self) -> int | None:
        """The descriptor that makes it this process's; None after `remove`."""
        return self._lock if self._lock >= 0 else None

    def remove(self) -> None:
        """Delete the folder. It may be called again."""
        if self._lock >= 0:
            import shutil

            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def shared_parent() -> Path:
    """A folder that a program which changes its user can reach: $TMPDIR, or /tmp if that is private."""
    import tempfile

    chosen = Path(tempfile.gettempdir())
    private = any(not folder.stat().st_mode & stat.S_IXOTH for folder in (chosen, *chosen.resolve().parents))
    return PUBLIC if private else chosen


def remove_leftovers(parent: Path | None = None, prefixes: tuple[str, ...] = PREFIXES) -> None:
    """Remove the folders of this user whose makers have ended. A folder without a lock file stays."""
    usual = {Path(os.environ[name]) for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)} | {PUBLIC}
    for folder in usual if parent is None else {parent}:
        for path in _folders(folder, prefixes):
            with contextlib.suppress(OSError):
                _remove_if_left(path)


def _folders(parent: Path, prefixes: tuple[str, ...]) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefixes) and entry.is_dir(follow_symlinks=False):
                yield entry.path


def _remove_if_left(path: str) -> None:
    lock = os.open(os.path.join(path, LOCK_NAME), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(lock)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and _lock(lock):
            import shutil

            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False

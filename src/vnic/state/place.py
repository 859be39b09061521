"""Where the journal of a vnic is: NAME.db in the folder for state, or the path that `-journal` gives.

`vnic run` makes the folder and the file; `vnic log` and `vnic why --at` look for them here.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from vnic.plainfile import open_plain
from vnic.sockets.lock import SUFFIX as LOCK_SUFFIX

SUFFIX = ".db"
BESIDE = ("-wal", "-shm")
"""SQLite's own files beside the database."""


class Unusable(Exception):
    """The journal's file cannot be used now; `str()` is the reason, without the path."""


def folder() -> Path:
    """The folder for state: in $XDG_STATE_HOME, /var/lib for root, else ~/.local/state. Unusable without a home."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the specification has relative ones ignored
        return Path(state) / "vnic"
    if os.geteuid() == 0:
        return Path("/var/lib/vnic")
    try:
        return Path.home() / ".local" / "state" / "vnic"
    except RuntimeError:
        raise Unusable("there is no home folder; set XDG_STATE_HOME, or give -journal PATH") from None


def default_path(name: str) -> Path:
    """The journal of the vnic of that `-name`."""
    return folder() / f"{name}{SUFFIX}"


def journals() -> dict[str, Path]:
    """The journals in the folder for state, by the names of their vnics."""
    try:
        found = sorted(folder().glob(f"*{SUFFIX}"))
    except (OSError, Unusable):
        return {}
    return {path.name.removesuffix(SUFFIX): path for path in found}


def make_folder(path: Path) -> None:
    """Make the folder for state. OSError, or Unusable if another user could write there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise Unusable(f"{path} is not a folder")
    if found.st_uid != os.geteuid():
        raise Unusable(f"{path} belongs to another user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)


def make_file(path: Path) -> bool:
    """Make the file with mode 0600 if it does not exist; whether it is new. OSError or Unusable if it is no plain file
    of this user, or SQLite's files beside it are not.

    Not to be called while SQLite has the file open: closing any descriptor of it ends SQLite's locks (fcntl(2)).
    """
    fd = open_plain(str(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    _check(path, found)
    check_beside(path)
    return found.st_size == 0


def check_beside(path: Path) -> None:
    """Unusable if SQLite's files beside the journal, where there are any, are no plain files of this user. To be called
    again when SQLite has opened them: in between, another user could have made them in a folder that all may write to,
    and could read along, or cut off what is mapped."""
    for suffix in BESIDE:
        beside = Path(f"{path}{suffix}")
        try:
            _check(beside, beside.lstat())
        except FileNotFoundError:
            continue


def is_written(path: Path) -> bool:
    """Whether a vnic holds the lock of the journal at `path`."""
    try:
        fd = os.open(f"{path}{LOCK_SUFFIX}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _check(path: Path, found: os.stat_result) -> None:
    """In a folder that all may write to, another user could put a file there, and read what is written."""
    if not stat.S_ISREG(found.st_mode):
        raise Unusable(f"{path.name} is no plain file")
    if found.st_uid != os.geteuid():
        raise Unusable(f"{path.name} belongs to another user")

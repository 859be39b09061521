"""The folder where users find a running vnic: it holds NAME.qmp, and only its user may enter it.

`vnic run` claims its name here, and the other verbs find the instance here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vnic.keep import NO_KEEP, Keep
from vnic.record import Record
from vnic.sockets.bind import SUN_PATH_BYTES
from vnic.sockets.peer import credentials

SOCKET_SUFFIX = ".qmp"
LOCK_SUFFIX = ".lock"
CLAIM = "claim"
"""Its key among what outlives the process."""

SUN_PATH_MAX = SUN_PATH_BYTES - 1
"""The size of a UNIX socket's path, with the NUL at the end."""


class RunDirError(Exception):
    """The folder or the name cannot be used; `str()` is the text for the user."""


def folders() -> Iterator[Path]:
    """The folders that may hold this user's sockets, the preferred one first. The folder of a session excludes the
    others."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        yield Path(runtime) / "vnic"
        return
    yield Path("/run/vnic")
    yield Path(f"/tmp/vnic-{os.getuid()}")


def own_folder() -> Path:
    """The first folder that exists, or can be made, with this user as owner and mode 0700."""
    refusals = []
    for folder in folders():
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_owner(folder)
        except OSError as error:
            refusals.append(f"{folder}: {error.strerror or error}")
        except RunDirError as error:
            refusals.append(str(error))
        else:
            return folder
    raise RunDirError("no folder for the QMP socket: " + "; ".join(refusals))


def _check_owner(folder: Path) -> None:
    """Refuse a folder that another user could have made, as /tmp allows. Set the mode of our own folder to 0700."""
    if _mode(folder) & 0o077:
        folder.chmod(0o700)


def _mode(folder: Path) -> int:
    """The permissions of a folder of this user. OSError if it does not exist; RunDirError if it is no folder, or
    another user's."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise RunDirError(f"{folder}: it is not a folder")
    if found.st_uid != os.getuid():
        raise RunDirError(f"{folder}: it belongs to another user")
    return stat.S_IMODE(found.st_mode)


class ClaimRecord(Record, frozen=True):
    """A name that is claimed."""

    name: str


class ClaimHandles(NamedTuple):
    """The descriptor of a Claim."""

    lock: int


class Claim:
    """A name, which a lock on NAME.lock reserves until this process exits, and those that take its place."""

    def __init__(self, name: str, keep: Keep = NO_KEEP) -> None:
        folder = own_folder()
        self._name = name
        self.socket_path = folder / f"{name}{SOCKET_SUFFIX}"
        self._lock_path = folder / f"{name}{LOCK_SUFFIX}"
        if len(os.fsencode(self.socket_path)) > SUN_PATH_MAX:
            raise RunDirError(
                f"UNIX socket path '{self.socket_path}' is too long: at most {SUN_PATH_MAX} bytes;"
                " choose a shorter -name or give -qmp"
            )
        inherited = keep.inherited(CLAIM, ClaimRecord, ClaimHandles)
        if inherited is not None and inherited[0].name == name:
            self._lock = inherited[1].lock
        else:
            self._lock = self._take_lock(name)
            if inherited is not None:
                os.close(inherited[1].lock)
        self._kept = keep.unit(CLAIM, self)

    def save_kept(self) -> tuple[ClaimRecord, ClaimHandles]:
        return ClaimRecord(name=self._name), ClaimHandles(self._lock)

    def _take_lock(self, name: str) -> int:
        while True:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(lock)
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise RunDirError(
                    f"a vnic named '{name}' is running already ({self.socket_path}); choose another -name"
                ) from None
            if _same_file(lock, self._lock_path):
                return lock
            os.close(lock)  # its holder exited and removed the file between our open and our lock

    def release(self) -> None:
        """Release the name. The monitor that listens on the socket removes it."""
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)
        self._kept.end()


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def running() -> dict[str, Path]:
    """The instances that answer now: their names and QMP sockets, those of the preferred folder first."""
    found: dict[str, Path] = {}
    for folder in folders():
        if refusal(folder) is not None:
            continue
        for path in sorted(folder.glob(f"*{SOCKET_SUFFIX}")):
            name = path.name.removesuffix(SOCKET_SUFFIX)
            if name not in found and _answers(path):
                found[name] = path
    return found


def refusal(folder: Path) -> str | None:
    """The reason not to trust the sockets in `folder`, by the server's own rule: another user could have made them to
    receive our commands. None if the folder is ours, "" if it does not exist."""
    try:
        mode = _mode(folder)
    except OSError:
        return ""
    except RunDirError as error:
        return str(error)
    return f"{folder}: others may enter it (mode {mode:04o}): chmod 700 it" if mode & 0o077 else None


def check_peer(connected: socket.socket) -> None:
    """Raises RunDirError unless this user, or root, runs the program at the other end."""
    uid = credentials(connected).uid
    if uid not in (os.getuid(), 0):
        raise RunDirError(f"a process of another user (uid {uid}) answers there")


def _answers(path: Path) -> bool:
    """Whether this user, or root, listens there; a stale socket refuses at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
            check_peer(probe)
        except BlockingIOError:
            return True  # its backlog is full: it is running
        except (OSError, RunDirError):
            return False
    return True

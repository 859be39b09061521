"""The passt program: starts it, watches it and restarts it. `stream` and `vhost_user` in this package use it.

`PasstKeeper` keeps one passt running; its user provides the socket for each start.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, NamedTuple, Protocol

import msgspec

from vnic.children import Child
from vnic.lifecycle import Lifecycle, Moves
from vnic.net.errors import NetError
from vnic.record import U64, Record, left_us, require
from vnic.scratch import ScratchFolder, shared_parent

RESTART_S = 0.1
"""The delay before a restart; it doubles after each failed start,"""
RESTART_MAX_S = 10.0
"""up to this."""
ERROR_BYTES = 4096
FAILURES_TOLD = 3
"""After so many failures with the same text, the log says that it will not recover by itself."""


class PasstProcess:
    """One start of passt. It calls `ready(pid)` when passt serves, `failed(complaint)` if it could not start.

    passt forks into the background once it is set up, so the exit status of the started process shows whether it
    serves. The background process ends when its socket is closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        arguments: list[str],
        pass_fds: tuple[int, ...],
        ready: Callable[[int | None], None],
        failed: Callable[[Complaint], None],
    ) -> None:
        self._ready = ready
        self._failed = failed
        words = list(arguments)
        self._pid_file = _PidFile.make(arguments)
        if self._pid_file is not None:
            words += ["--pid", self._pid_file.path]
        errors = os.memfd_create("passt-stderr")
        try:
            self._child = Child(
                loop,
                words,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=pass_fds,
                ends_with_us=True,
            )
        except OSError as error:
            os.close(errors)
            self._remove_pid_file()
            raise not_executable(words[0], error.strerror or str(error)) from None
        self._errors = errors
        self._cancelled = False
        self._child.ended.add_done_callback(self._ended)

    def _ended(self, ended: asyncio.Future[int]) -> None:
        status = ended.result()
        said = os.pread(self._errors, ERROR_BYTES, 0).decode(errors="replace")
        pid = self._pid_file.read() if self._pid_file is not None else None
        os.close(self._errors)
        self._remove_pid_file()
        if self._cancelled:
            if pid is not None:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGTERM)
        elif status == 0:
            self._ready(pid)
        else:
            self._failed(_complaint(status, said))

    def cancel(self) -> None:
        """Cancel a start in progress, including a background process that it may have made."""
        self._cancelled = True
        self._child.kill()

    def _remove_pid_file(self) -> None:
        if self._pid_file is not None:
            self._pid_file.remove()


class _PidFile:
    """The file where passt writes its process ID, in a directory that only passt and vnic can enter."""

    def __init__(self, folder: ScratchFolder) -> None:
        self._folder = folder
        self.path = str(folder.path / "pid")

    @classmethod
    def make(cls, arguments: list[str]) -> _PidFile | None:
        """None if passt could not write the file."""
        folder = private_folder(arguments)
        return cls(folder) if folder is not None else None

    def read(self) -> int | None:
        try:
            # The user that passt changes to may have put any file there.
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd) as file:
                pid = int(file.read(32))
        except (OSError, ValueError):
            return None
        return pid if pid > 0 else None

    def remove(self) -> None:
        self._folder.remove()


def private_folder(arguments: list[str]) -> ScratchFolder | None:
    """A new folder that only root and a passt with those arguments can write to.

    As root passt changes to the user nobody before it writes. Releases since 2025 give up CAP_DAC_OVERRIDE before that,
    and write some files as root: the directory belongs to root, and is open to nobody's group. None if passt changes to
    another user, by --runas.
    """
    as_root = os.geteuid() == 0
    if as_root and any(word.startswith("--runas") for word in arguments):
        return None
    folder = ScratchFolder("vnic-passt-", shared_parent() if as_root else None)
    if as_root:
        try:
            os.chown(folder.path, 0, pwd.getpwnam("nobody").pw_gid)
            os.chmod(folder.path, 0o770)
        except (KeyError, OSError):
            folder.remove()
            return None
    return folder


def not_executable(program: str, reason: str) -> NetError:
    return NetError(f'Error creating daemon: Failed to execute child process "{program}" ({reason})')


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why passt did not start. `hopeless`: it would fail the next time, too."""

    text: str
    hopeless: bool = False


def _complaint(status: int, said: str) -> Complaint:
    """The reason that passt printed, in one line, without its help text."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not _is_noise(line)]
    for line in lines:
        if "unrecognized option" in line:
            option = line.rpartition("option")[2].strip(" '")
            return Complaint(
                f"passt does not know {option}: the one that is installed is too old", hopeless=True
            )
    if status < 0:
        return Complaint(f"passt was ended by signal {-status}")
    return Complaint(f"passt failed: {lines[-1]}" if lines else f"passt failed with exit status {status}")


def _is_noise(line: str) -> bool:
    return "to syslog" in line or line.startswith("Don't run as root")


class PasstState(enum.Enum):
    """The state of passt."""

    NEW = "new"
    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"
    """Waiting for the time of the next start."""
    ENDED = "ended"
    """The end: the arguments are wrong, or the netdev was deleted."""


MOVES: Final[Moves[PasstState]] = {
    PasstState.NEW: frozenset({PasstState.STARTING, PasstState.ENDED}),
    PasstState.STARTING: frozenset({PasstState.SERVING, PasstState.WAITING, PasstState.ENDED}),
    PasstState.SERVING: frozenset({PasstState.WAITING, PasstState.ENDED}),
    PasstState.WAITING: frozenset({PasstState.STARTING, PasstState.ENDED}),
    PasstState.ENDED: frozenset({PasstState.WAITING}),
}
"""`restart` leaves ENDED: new arguments may correct the wrong ones."""


class PasstRecord(Record, frozen=True):
    """The state of a PasstKeeper apart from the pidfd."""

    state: PasstState
    pid: Annotated[int, msgspec.Meta(gt=0)] | None
    wait_us: U64 | None
    """In WAITING, the time to the next start."""
    delay_us: U64
    """The delay before the start after that."""
    last_failure: str
    same_failures: Annotated[int, msgspec.Meta(ge=0)]
    """How often in a row that was the failure."""

    def check_fields(self) -> None:
        state = self.state.value
        waits = self.state is PasstState.WAITING
        require(waits is (self.wait_us is not None), "wait_us", f"does not go with {state}")
        serves = self.state is PasstState.SERVING
        require(serves or self.pid is None, "pid", f"does not go with {state}")

    def check(self, pidfd: int | None) -> None:
        """Raise RecordError unless this descriptor of the process goes with it; there may be none."""
        serves = self.state is PasstState.SERVING
        require(serves or pidfd is None, "state", f"is {self.state.value}, and a pidfd was passed")


class PasstSocket(NamedTuple):
    """The socket of one start."""

    arguments: list[str]
    """The arguments that name the socket."""
    pass_fds: tuple[int, ...]
    """The descriptors that passt inherits."""
    serves: Callable[[], None]
    """Called when passt is ready."""


class PasstUser(Protocol):
    """What a PasstKeeper needs from its user."""

    def passt_socket(self) -> PasstSocket:
        """Make the socket of a start."""
        ...

    def passt_awaited(self, text: str) -> None:
        """passt is not running; `text` says why, and what happens next."""

    def passt_starts_again(self) -> None:
        """passt is started again."""


class PasstKeeper:
    """Starts passt, and restarts it when it ends (net_passt_send of QEMU's net/passt.c)."""

    state = Lifecycle(PasstState.NEW, MOVES)

    def __init__(self, loop: asyncio.AbstractEventLoop, arguments: list[str], user: PasstUser) -> None:
        self.pid: int | None = None
        """The process ID of the passt that serves, if it is known."""
        self._pidfd = -1
        """The same process as a pidfd: unlike the process ID it cannot be reused."""
        self._loop = loop
        self._arguments = arguments
        self._user = user
        self._wait_s = RESTART_S
        self._last_failure = ""
        self._same_failures = 0
        self._process: PasstProcess | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """NetError if the program does not exist."""
        if shutil.which(self._arguments[0]) is None:
            raise not_executable(self._arguments[0], "No such file or directory")
        self._user.passt_awaited("starting passt")
        self._launch()

    def save(self) -> PasstRecord:
        timer = self._timer
        return PasstRecord(
            state=self.state,
            pid=self.pid,
            wait_us=None if timer is None else left_us(timer.when(), self._loop.time()),
            delay_us=round(self._wait_s * 1e6),
            last_failure=self._last_failure,
            same_failures=self._same_failures,
        )

    @property
    def pidfd(self) -> int | None:
        """The descriptor that belongs to the record, if the process is known."""
        return self._pidfd if self._pidfd >= 0 else None

    def restore(
        self, record: PasstRecord, pidfd: int | None, arguments: list[str] | None = None, *, age_us: int = 0
    ) -> None:
        """Go on with the passt that serves, or with the wait for its next start; called instead of `start`, with a
        record that was checked. A start that was under way is made anew, because its process is another's child by
        then. `arguments` are those of the next start; `age_us` is the time since the record was saved."""
        PasstKeeper.state.restore(self, record.state)
        self._arguments = arguments or self._arguments
        self.pid, self._pidfd = record.pid, -1 if pidfd is None else pidfd
        self._wait_s = min(record.delay_us / 1e6, RESTART_MAX_S)
        self._last_failure, self._same_failures = record.last_failure, record.same_failures
        if record.state in (PasstState.WAITING, PasstState.STARTING):
            PasstKeeper.state.restore(self, PasstState.WAITING)
            wait_us = max(0, (record.wait_us or 0) - age_us)
            self._timer = self._loop.call_later(wait_us / 1e6, self._launch)

    def _launch(self) -> None:
        if self.state is PasstState.WAITING:
            self._user.passt_starts_again()
        self._timer = None
        self.state = PasstState.STARTING
        socket = self._user.passt_socket()
        arguments = [*self._arguments, *socket.arguments]
        ready = partial(self._ready, socket.serves)
        try:
            self._process = PasstProcess(self._loop, arguments, socket.pass_fds, ready, self._failed)
        except NetError as error:
            self._failed(Complaint(error.desc))

    def _ready(self, serves: Callable[[], None], pid: int | None) -> None:
        self._process = None
        self.pid = pid
        if pid is not None:
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError:
                pass  # it has ended already: its socket reports that next
        self.state = PasstState.SERVING
        self._wait_s = RESTART_S
        self._same_failures = 0
        serves()

    def _failed(self, complaint: Complaint) -> None:
        self._process = None
        self._same_failures = self._same_failures + 1 if complaint.text == self._last_failure else 1
        self._last_failure = complaint.text
        if complaint.hopeless:
            self.state = PasstState.ENDED
            self._user.passt_awaited(complaint.text)
        elif self._same_failures >= FAILURES_TOLD:
            self._start_later(f"{complaint.text}, {FAILURES_TOLD} times in a row or more")
        else:
            self._start_later(complaint.text)

    def restart(self, arguments: list[str]) -> None:
        """End this passt, or its start, and start one with other arguments at once."""
        self._arguments = arguments
        if self.state is PasstState.NEW:
            return
        self._stop()
        self._wait_s = RESTART_S
        self.state = PasstState.WAITING
        self._launch()

    def lost(self, reason: str) -> None:
        """The user's connection has ended: end this passt, and start another."""
        self._end()
        self._start_later(reason)

    def _start_later(self, reason: str) -> None:
        self.state = PasstState.WAITING
        self._timer = self._loop.call_later(self._wait_s, self._launch)
        self._wait_s = min(self._wait_s * 2, RESTART_MAX_S)
        self._user.passt_awaited(f"{reason}; it is started again")

    def _end(self) -> None:
        """passt ends when its socket is closed; if it does not, it gets a signal."""
        self.pid = None
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            except OSError:
                pass
            os.close(self._pidfd)
            self._pidfd = -1

    def close(self) -> None:
        self.state = PasstState.ENDED
        self._stop()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._process is not None:
            self._process.cancel()
            self._process = None
        self._end()

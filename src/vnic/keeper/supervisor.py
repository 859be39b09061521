"""The supervisor: it starts control, holds what control stores, and starts it again when it dies.

`vnic run --keep` calls `Supervisor.run`. Only what control's own process says is heard, and nothing that it says makes
the supervisor wait.
"""

from __future__ import annotations

import ctypes
import enum
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Final

from vnic.keeper import child, messages
from vnic.keeper.fdstore import FdStore
from vnic.keeper.notify_socket import NotifySocket
from vnic.keeper.restarts import Restarts
from vnic.keeper.variables import KEEPER, Keeper, encoded

PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
HANDLED: Final = (*PASSED_ON, signal.SIGCHLD)

WATCHDOG_S: Final = 3.0
"""A control that has said nothing for that long is killed and started again: early enough that QEMU, which waits 5 s
for its vfio-user device (x-msg-timeout=), hears the next one. Times without a processor do not count."""
START_S: Final = 90.0
"""The time that a start after the first one may take (systemd's DefaultTimeoutStartSec=)."""
UPGRADE_S: Final = 10.0
"""The same of another version."""
LEAVE_S: Final = 2.0
"""The time that a control which asked for an upgrade may take to end."""
STOP_S: Final = 10.0
"""The time that control has to end when it was told to; it takes 3 s at most where it is well."""
LATE_S: Final = 1.0
"""Woken later than that, the supervisor was stopped or had no processor, and its child may have been, too."""
LEAST_WAIT_S: Final = 0.05
"""A child that waited no longer than that for a processor has had the time of WATCHDOG_S."""

EXIT_LEFT: Final = 133
"""Control's exit code when it leaves for its successor: an upgrade, or a restart that was ordered."""


class State(enum.Enum):
    """Of the child."""

    STARTING = enum.auto()
    UP = enum.auto()
    LEAVING = enum.auto()
    """It asked for an upgrade and is about to end."""
    STOPPING = enum.auto()
    """It was told to end, or said that it ends. Nothing is started afterwards."""
    PAUSING = enum.auto()
    """There is none: it is started again soon."""


class Supervisor:
    """Of one command. `run` returns how it ended, as Popen's returncode: negative for a signal."""

    def __init__(
        self,
        command: Sequence[str],
        words: Sequence[str],
        *,
        first_fd: int = 3,
        other_programs: bool = True,
        environment: Mapping[str, str] = os.environ,
        say: Callable[[str], None],
        up: Callable[[int], None] = lambda pid: None,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        """`command` is the program, which an upgrade replaces, and `words` what follows it. `first_fd`: see
        `FdStore`. Without `other_programs` an upgrade starts the same one: a sandbox must not be left that way. `say`
        tells people a line, `up` is called with its pid whenever a child is set up, `gone` before one
        that died is followed by another."""
        self._command = list(command)
        self._words = list(words)
        self._environment = dict(environment)
        self._other_programs = other_programs
        self._say, self._up, self._gone = say, up, gone
        self._store = FdStore(first_fd)
        self._restarts = Restarts()
        self._notify = NotifySocket()
        self._state = State.STARTING
        self._pid = 0
        self._starts = 0
        self._up_at: float | None = None
        """When the present child was set up."""
        self._was_up = False
        """Whether any child was set up."""
        self._deadline: float | None = None
        """Of the present state."""
        self._answered = child.NO_TIMES
        """The processor time of the child when it last answered."""
        self._too_late = False
        """Whether the present child was killed for that."""
        self._ended = ""
        self._ended_ns = 0
        self._replaced: list[str] | None = None
        """The command before the upgrade that is under way."""
        self._upgrade = ""
        self._held_back: int | None = None
        """A signal that is passed on when the child is set up."""
        self._outcome: int | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until the child has ended for good."""
        _adopt_orphans()
        woken, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, _wake) for number in HANDLED}
        try:
            self._start()
            poll = select.poll()
            poll.register(self._notify, select.POLLIN)
            poll.register(woken, select.POLLIN)
            while self._outcome is None:
                self._turn(poll, woken)
            return self._outcome
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            os.close(woken)
            os.close(wakeup)
            self._store.clear()
            self._notify.close()

    def _turn(self, poll: select.poll, woken: int) -> None:
        wanted = self._deadline
        poll.poll(None if wanted is None else max(0.0, wanted - time.monotonic()) * 1000 + 1)
        now = time.monotonic()
        if wanted is not None and now > wanted + LATE_S and self._state is State.UP:
            self._deadline = now + WATCHDOG_S
        self._hear()
        for number in _signals(woken):
            if number in PASSED_ON:
                self._pass_on(number)
        self._reap()
        if self._outcome is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._expire()

    def _start(self) -> None:
        self._starts += 1
        self._up_at, self._too_late = None, False
        self._state = State.STARTING
        # One that tells a client of it has come up.
        upgrade = self._upgrade if self._replaced is None else f"done {self._command[0]}"
        environment = {
            **self._environment,
            "NOTIFY_SOCKET": self._notify.path,
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1_000_000)),
            KEEPER: encoded(Keeper(os.getpid(), self._starts, self._ended, self._ended_ns, upgrade)),
        }
        if not self._was_up:
            self._deadline = None  # options may take their time: a name server, a peer
        else:
            self._deadline = time.monotonic() + (START_S if self._replaced is None else UPGRADE_S)
        try:
            self._pid = child.start([*self._command, *self._words], environment, self._store, HANDLED)
        except OSError as error:  # the limit of processes, or no memory
            self._pid = 0
            if not self._was_up:
                raise
            self._died(self._pid, child.EXIT_CANNOT_START, f"could not be started: {error.strerror}")

    # -- what the child says ------------------------------------------------------------------------------------

    def _hear(self) -> None:
        for data, fds, whole in self._notify.received(self._pid):
            try:
                if not whole:
                    raise messages.Malformed(
                        "it is too long, or its descriptors are beyond the limit of open files"
                    )
                message = messages.parse(data)
            except messages.Malformed as error:
                _close_all(fds)
                self._say(f"a message of process {self._pid} is refused: {error}")
                continue
            self._obey(message, fds)

    def _obey(self, message: messages.Message, fds: list[int]) -> None:
        if message.store:
            if refused := self._store.add(message.name, fds):
                self._say(f"there is no room for {refused} more descriptors")
        else:
            _close_all(fds)
        if message.remove:
            self._store.remove(message.name)
        if message.ready and self._state is State.STARTING:
            self._is_up()
        elif message.watchdog and self._state is State.UP:
            self._answers()
        if message.stopping and self._state in (State.STARTING, State.UP):
            self._stop()
        elif message.upgrade is not None and self._state is State.UP:
            self._state, self._deadline = State.LEAVING, time.monotonic() + LEAVE_S
            if message.upgrade and not self._other_programs:
                self._upgrade = f"failed {message.upgrade}: -sandbox and -run-with allow no other program"
                return
            self._replaced = self._command
            if message.upgrade:
                self._command = [message.upgrade]

    def _is_up(self) -> None:
        now = time.monotonic()
        self._state, self._up_at, self._was_up = State.UP, now, True
        self._answers()
        if self._replaced is not None:
            self._upgrade = f"done {self._command[0]}"
            self._replaced = None
        self._up(self._pid)
        if self._held_back is not None:
            self._pass_on(self._held_back)

    def _answers(self) -> None:
        self._deadline = time.monotonic() + WATCHDOG_S
        self._answered = child.times_of(self._pid)

    def _had_no_processor(self) -> bool:
        """Whether the child waited for one since it last answered; it gets that time once more."""
        before, now = self._answered, child.times_of(self._pid)
        waited_s = (now.queued_ns - before.queued_ns) / 1e9
        if now.runnable:  # the kernel counts a wait at its end
            waited_s = max(waited_s, WATCHDOG_S - (now.ran_ns - before.ran_ns) / 1e9)
        if waited_s < LEAST_WAIT_S:
            return False
        self._deadline, self._answered = time.monotonic() + waited_s, now
        return True

    # -- the end ------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._state, self._deadline = State.STOPPING, time.monotonic() + STOP_S

    @property
    def _is_to_end(self) -> bool:
        return self._state is State.STOPPING or self._held_back is not None

    def _pass_on(self, number: int) -> None:
        """Once more if it comes once more, as control would get it without a keeper; the time to end is not longer."""
        if self._state is State.PAUSING and len(self._store):
            self._start()  # it takes up what is stored once more, and ends it in order
        if self._state is State.PAUSING or not self._pid:
            self._outcome = 0
            return
        if self._state is State.STARTING and self._was_up and self._held_back is None:
            # It has guests of the one before: it ends in order when it is set up.
            self._held_back, self._deadline = number, time.monotonic() + STOP_S
            return
        if self._state is not State.STOPPING:
            self._stop()
        _send(self._pid, number)

    def _expire(self) -> None:
        """The child took too long."""
        if self._state is State.PAUSING:
            self._start()
            return
        if self._state is State.UP:
            if self._had_no_processor():
                return
            self._say(f"process {self._pid} has not answered for {WATCHDOG_S:g} s: killing it")
        elif self._state is not State.LEAVING:
            doing = "end" if self._state is State.STOPPING else "start"
            self._say(f"process {self._pid} did not {doing} in time: killing it")
        self._deadline = None
        self._too_late = True
        _send(self._pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Also children of a control that died: they are this process's now (PR_SET_CHILD_SUBREAPER)."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._hear()  # what it said before
                self._pid = 0
                self._child_ended(pid, os.waitstatus_to_exitcode(status))

    def _child_ended(self, pid: int, code: int) -> None:
        leaves = self._state is State.LEAVING or (self._state is State.UP and code == EXIT_LEFT)
        if leaves:
            self._ended, self._ended_ns = "left for its successor", time.monotonic_ns()
            self._gone()
            self._start()
        elif not self._was_up and code == -signal.SIGKILL and not self._is_to_end:
            self._died(pid, code, _how(code))  # no error of its own, which a user would want to see at once
        elif self._is_to_end or not self._was_up or (code == 0 and self._replaced is None):
            self._outcome = 0 if code == EXIT_LEFT else code
        else:
            self._died(pid, code, _how(code))

    def _died(self, pid: int, code: int, how: str) -> None:
        now = time.monotonic()
        self._ended, self._ended_ns = how, time.monotonic_ns()
        self._gone()
        if self._replaced is not None:
            self._say(
                f"process {pid}, {self._command[0]}, did not come up: it {how}; the version before is started again"
            )
            self._upgrade = f"failed {self._command[0]}: it {how}"
            self._command, self._replaced = self._replaced, None
            self._start()
            return
        killed = code == -signal.SIGKILL and not self._too_late
        pause = self._restarts.died(None if self._up_at is None else now - self._up_at, killed=killed)
        if pause is None:
            self._say(f"process {pid} {how}; it did not come up several times: giving up")
            self._outcome = code
            return
        later = f" in {pause:g} s" if pause else ""
        self._say(f"process {pid} {how}; it is started again{later}")
        if self._restarts.anew and len(self._store):
            self._say("it did not come up with what it had stored, and is started without: links go down")
            self._store.clear()
        self._state, self._deadline = State.PAUSING, now + pause


_PR_SET_CHILD_SUBREAPER: Final = 36


def _adopt_orphans() -> None:
    """Become the parent of what a dead control leaves (prctl(2)): without a PID 1 that reaps, as in many containers,
    each would stay a zombie."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _how(code: int) -> str:
    """How a child ended, after `it`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _wake(number: int, frame: FrameType | None) -> None:
    """The wakeup descriptor has the number."""


def _signals(woken: int) -> list[int]:
    try:
        return list(os.read(woken, 512))
    except BlockingIOError:
        return []


def _send(pid: int, number: int) -> None:
    """To a child that is not reaped yet, so that the pid is still its own."""
    os.kill(pid, number)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)

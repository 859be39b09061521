"""A process that starts the programs of a sandboxed vnic: vnic-wire, passt, scripts, helpers, and nothing else.

It is forked before the sandbox closes, because a program inherits the sandbox of the process that starts it, and none
of these could work in vnic's. It runs only the commands that it knew at its start, whatever it is asked. It ends with
vnic.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NoReturn

MESSAGE_BYTES: Final = 1 << 17
MESSAGE_FDS: Final = 64
ANSWER_S: Final = 10.0
"""The time for an answer, which is that of a fork and an exec."""
_STATUS: Final = struct.Struct("i")
_PR_SET_NAME: Final = 15
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38

Commands = Collection[tuple[str, ...]]
"""How the allowed command lines begin."""


class StartedProcess:
    """A program that the starter has started: `children.Process`."""

    def __init__(self, pid: int, pidfd: int, status: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.ending = status

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> int:
        """SIGKILL's where the starter has ended before the program."""
        said = os.read(self.ending, _STATUS.size)
        os.close(self.ending)
        os.close(self.pidfd)
        return int(_STATUS.unpack(said)[0]) if len(said) == _STATUS.size else -signal.SIGKILL


class Starter:
    """vnic's end: `children.Launcher`."""

    def __init__(self, control: socket.socket, commands: Commands, pid: int) -> None:
        self._control = control
        self._commands = commands
        self._pid = pid

    def launch(self, command: Sequence[str], fds: Mapping[int, int], *, ends_with_us: bool) -> StartedProcess:
        """Raises OSError: EACCES for a command that the command line did not name."""
        if not _is_allowed(command, self._commands):
            raise OSError(errno.EACCES, "-sandbox on: it is none of the programs that the command line names")
        request = {"command": list(command), "targets": list(fds), "ends": ends_with_us}
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], list(fds.values()))
            answer, received, _, _ = socket.recv_fds(self._control, 1024, 2, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            # A late answer would be taken for that of the next request: there is none.
            self._control.close()
            why = error.strerror or str(error)
            raise OSError(error.errno or errno.EIO, f"vnic's starter does not answer: {why}") from None
        if len(received) != 2:
            for fd in received:
                os.close(fd)
            code = json.loads(answer).get("errno", errno.EIO) if answer else errno.EPIPE
            raise OSError(code, os.strerror(code))
        return StartedProcess(json.loads(answer)["pid"], *received)

    def close(self) -> None:
        """End the starter, and the programs that end with it. It does so at once."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _is_allowed(command: Sequence[str], commands: Commands) -> bool:
    return any(tuple(command[: len(begin)]) == begin for begin in commands)


def fork_starter(commands: Commands, *, may_gain_privileges: bool = True) -> Starter:
    """Fork it; this process must have one thread. `may_gain_privileges`: set-uid programs work (QEMU's bridge helper
    is one). Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _serve(theirs, tuple(commands), may_gain_privileges)
        finally:
            os._exit(1)  # nothing of the code above this call may run twice
    theirs.close()
    ours.settimeout(ANSWER_S)
    return Starter(ours, tuple(commands), pid)


# -- the process itself -----------------------------------------------------------------------------------------------


def _serve(control: socket.socket, commands: Commands, may_gain_privileges: bool) -> NoReturn:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NAME, b"vnic-starter", 0, 0, 0)
    if not may_gain_privileges and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        os._exit(1)
    # A terminal's Ctrl-C is for vnic, which may need a downscript at its end. The starter ends with its channel.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    _close_others(control.fileno())
    running: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == control.fileno():
                started = _answer(control, commands)
                if started is not None:
                    pidfd, *what = started
                    running[pidfd] = (what[0], what[1])
                    poll.register(pidfd, select.POLLIN)
            else:
                poll.unregister(fd)
                pid, status = running.pop(fd)
                _report(pid, status)
                os.close(fd)


def _close_others(kept: int) -> None:
    """Nothing that vnic has open may stay open by this process; programs get what their request brings."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _answer(control: socket.socket, commands: Commands) -> tuple[int, int, int] | None:
    """Work off one request: (pidfd, pid, where its status goes) of the program that was started."""
    message, fds = _receive(control)
    if not message:
        os._exit(0)  # vnic has ended
    try:
        request = json.loads(message)
        command, targets = [str(word) for word in request["command"]], [int(n) for n in request["targets"]]
        if len(targets) != len(fds) or not _is_allowed(command, commands):
            raise PermissionError(errno.EACCES, "not allowed")
        pid = _start(command, dict(zip(targets, fds, strict=True)), bool(request["ends"]))
        pidfd, reading, writing = _watched(pid)
    except OSError as error:
        control.send(json.dumps({"errno": error.errno}).encode())
        return None
    except (ValueError, KeyError, TypeError):
        control.send(json.dumps({"errno": errno.EINVAL}).encode())
        return None
    finally:
        for fd in fds:
            os.close(fd)
    socket.send_fds(control, [json.dumps({"pid": pid}).encode()], [pidfd, reading])
    os.close(reading)
    return pidfd, pid, writing


def _watched(pid: int) -> tuple[int, int, int]:
    """The program's pidfd, and a pipe for its status. Raises OSError where there are no descriptors left; the program
    has ended then."""
    try:
        pidfd = os.pidfd_open(pid)
        try:
            return pidfd, *os.pipe()
        except BaseException:
            os.close(pidfd)
            raise
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    try:
        data, ancillary, flags, _ = control.recvmsg(
            MESSAGE_BYTES, socket.CMSG_SPACE(MESSAGE_FDS * size), socket.MSG_CMSG_CLOEXEC
        )
    except OSError:
        return b"", []
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % size])
    return (b"?" if flags & socket.MSG_CTRUNC else data), fds.tolist()


def _start(command: list[str], fds: dict[int, int], ends_with_us: bool) -> int:
    """Fork and exec; the program's process id, when it runs. Raises the OSError of exec."""
    reading, writing = os.pipe()
    starter = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            free = max(fds) + 1
            writing = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, free)
            # None of them may have a number that another one is to get.
            fds = {target: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, free) for target, fd in fds.items()}
            _become(command, fds, starter if ends_with_us else 0)
        except OSError as error:
            os.write(writing, _STATUS.pack(error.errno or errno.EIO))
        finally:
            os._exit(127)
    os.close(writing)
    said = os.read(reading, _STATUS.size)
    os.close(reading)
    if said:
        os.waitpid(pid, 0)
        code = int(_STATUS.unpack(said)[0])
        raise OSError(code, os.strerror(code))
    return pid


def _become(command: list[str], fds: dict[int, int], starter: int) -> NoReturn:
    if starter:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != starter:
            os._exit(127)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for target, fd in fds.items():
        os.dup2(fd, target)  # inheritable
    os.execvp(command[0], command)


def _report(pid: int, status: int) -> None:
    _, word = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        os.write(status, _STATUS.pack(os.waitstatus_to_exitcode(word)))
    os.close(status)

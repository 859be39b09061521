"""A program that does what a test tells it over a UNIX socket, as the child of a keeper.

It connects at its start and says who it is; `Director` is the test's side. The file is a script, too: it imports only
what the standard library has.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any


class Director:
    """The listening end: each start of the program is one `Started`."""

    def __init__(self, path: str, seconds: float = 30.0) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(seconds)
        self._seconds = seconds
        self._listener.bind(path)
        self._listener.listen()

    def next_start(self) -> Started:
        """Wait for it."""
        sock, _ = self._listener.accept()
        sock.settimeout(self._seconds)
        return Started(sock)

    def has_started(self, seconds: float) -> bool:
        """Whether another one starts within that time."""
        return bool(select.select([self._listener], [], [], seconds)[0])

    def close(self) -> None:
        self._listener.close()


class Started:
    """One process of the program."""

    def __init__(self, sock: socket.socket) -> None:
        self._stream = sock.makefile("rw")
        sock.close()
        said = json.loads(self._stream.readline())
        self.pid: int = said["pid"]
        self.environment: dict[str, str] = said["environment"]
        self.words: list[str] = said["words"]

    def ask(self, what: str, *arguments: object) -> Any:
        """Have it call one function of `Tasks`; returns the result. None: it ended before it could answer."""
        self._stream.write(json.dumps([what, *arguments]) + "\n")
        self._stream.flush()
        answer = self._stream.readline()
        return json.loads(answer) if answer else None

    def notify(self, *assignments: str) -> None:
        self.ask("notify", "\n".join(assignments))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def exit(self, code: int) -> None:
        """End it; returns when it has."""
        self._stream.write(json.dumps(["exit", code]) + "\n")
        self._stream.flush()
        self._stream.readline()


class Tasks:
    """What the program can do."""

    def notify(self, text: str) -> None:
        self._send(text.encode(), [])

    def store(self, name: str, content: str, number: int = -1) -> None:
        """Store a file with that content; `number`: under which it is open here."""
        fd = os.memfd_create("stored")
        os.write(fd, content.encode())
        if number >= 0:
            os.dup2(fd, number)
            os.close(fd)
            fd = number
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0".encode(), [fd])
        os.close(fd)

    def barrier(self) -> bool:
        """Whether the keeper closes the descriptor of BARRIER=1 (sd_notify_barrier(3))."""
        reading, writing = os.pipe()
        self._send(b"BARRIER=1", [writing])
        os.close(writing)
        closed = bool(select.select([reading], [], [], 30)[0])
        os.close(reading)
        return closed

    def read(self, fd: int) -> str:
        return os.pread(fd, 100, 0).decode()

    def leave_a_child(self) -> int:
        """A process that outlives this one."""
        pid = os.fork()
        if pid == 0:
            os.closerange(0, 100)
            signal.pause()
        return pid

    def another_says(self, text: str) -> None:
        """A child of this process sends it."""
        pid = os.fork()
        if pid == 0:
            self.notify(text)
            os._exit(0)
        os.waitpid(pid, 0)

    def exits_on(self, number: int, code: int) -> None:
        signal.signal(number, lambda *_: os._exit(code))

    def ignores(self, number: int) -> None:
        signal.signal(number, signal.SIG_IGN)

    def exit(self, code: int) -> None:
        os._exit(code)

    def _send(self, data: bytes, fds: list[int]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(os.environ["NOTIFY_SOCKET"])
            socket.send_fds(sock, [data], fds)


TASKS: dict[str, Callable[..., object]] = {
    task.__name__: task
    for task in (
        *(Tasks.notify, Tasks.store, Tasks.barrier, Tasks.read, Tasks.leave_a_child, Tasks.another_says),
        *(Tasks.exits_on, Tasks.ignores, Tasks.exit),
    )
}


def main() -> None:
    tasks = Tasks()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    stream = sock.makefile("rw")
    said = {"pid": os.getpid(), "environment": dict(os.environ), "words": sys.argv[2:]}
    stream.write(json.dumps(said) + "\n")
    stream.flush()
    for line in stream:
        what, *arguments = json.loads(line)
        stream.write(json.dumps(TASKS[what](tasks, *arguments)) + "\n")
        stream.flush()


if __name__ == "__main__":
    main()

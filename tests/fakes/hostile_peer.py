"""A UNIX socket whose server does what it likes, in a thread: it plays a QEMU's monitor, or a guest's agent."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

Play = Callable[["Talk"], None]

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}\r\n'
NIC = "net0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56"
TRUTH: dict[str, object] = {
    "qmp_capabilities": {},
    "query-status": {"status": "running", "running": True},
    "query-chardev": [],
    "human-monitor-command": f"{NIC}\r\n \\ st0: index=0,type=stream,unix:a\r\n",
    "set_link": {},
}


class Over(Exception):
    """The connection has ended."""


class Talk:
    """One connection. Its methods raise Over when it ends; a test's end ends it."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        """0 for the first connection."""
        self.asked = 0
        """How many requests were awaited."""
        self._unread = b""

    def send(self, data: bytes) -> None:
        """Wait until it is read."""
        try:
            self.sock.sendall(data)
        except OSError:
            raise Over from None

    def line(self) -> bytes:
        while b"\n" not in self._unread:
            try:
                data = self.sock.recv(1 << 16)
            except OSError:
                raise Over from None
            if not data:
                raise Over
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def requests(self) -> Iterator[dict[str, Any]]:
        """The commands, as they come."""
        while True:
            self.asked += 1
            yield json.loads(self.line().rpartition(b"\xff")[2])

    def answer(self, request: dict[str, Any], value: object) -> None:
        message = {"return": value} | ({"id": request["id"]} if "id" in request else {})
        self.send(json.dumps(message).encode() + b"\r\n")

    def behave(self, count: int | None = None, answers: dict[str, object] | None = None) -> None:
        """Answer so many commands as QEMU does; None: all that come."""
        for number, request in enumerate(self.requests(), 1):
            self.answer(request, (TRUTH | (answers or {}))[request["execute"]])
            if number == count:
                return

    def sync(self) -> None:
        """Answer as an agent that begins."""
        request = next(self.requests())
        self.send(b"\xff")
        self.answer(request, request["arguments"]["id"])

    def wait_for_end(self) -> None:
        """Read nothing, until the other end closes."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        poll.poll()


class HostilePeer:
    """Serves one connection after another with `play`."""

    def __init__(self, path: str, play: Play) -> None:
        self.path = path
        self.connections = 0
        """Those that have ended."""
        self.talks: list[Talk] = []
        self._play = play
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(16)
        self._sock: socket.socket | None = None
        self._ended = False
        self._changing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="hostile-peer")
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                with self._changing:
                    if self._ended:
                        return
                    self._sock = sock
                talk = Talk(sock, self.connections)
                self.talks.append(talk)
                with contextlib.suppress(Over):
                    self._play(talk)
                with self._changing:
                    self._sock = None
                self.connections += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changing:
            self._ended = True
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        os.unlink(self.path)

"""Runs shell commands in a guest over a byte stream that ends at its serial line; init.sh is the other end.

A random token frames each command and its answer, so a command may print whatever it likes.
"""

from __future__ import annotations

import math
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vnic.lab.guest.errors import CommandFailed, GuestError, GuestGone

READY = b"READY\n"
DEFAULT_TIMEOUT = 60.0

# The guest's tty holds 4096 bytes and drops what comes beyond: longer scripts travel as files in the initrd.
COMMAND_LIMIT_BYTES = 3072


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command in the guest ended, and what it printed on stdout and stderr, as one text."""

    status: int
    output: str


class Pending:
    """A command that is running in the guest."""

    def __init__(self, console: Console, command: str, token: bytes) -> None:
        self._console = console
        self._token = token
        self.command = command

    def result(self, timeout: float = DEFAULT_TIMEOUT) -> Completed:
        """Wait at most `timeout` seconds for its end."""
        return self._console._finish(self, timeout)


class Console:
    """The host's end. One command runs at a time; threads that call at once take turns (`run`)."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._received = bytearray()
        self._running: Pending | None = None
        self._turn = threading.Lock()

    def wait_ready(self, timeout: float) -> str:
        """Wait until the guest takes commands; returns what it printed until then."""
        return self._read_until(READY, timeout).decode(errors="replace")

    def run(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> Completed:
        with self._turn:
            return self.start(command).result(timeout)

    def follow(self, command: str, write: Callable[[bytes], object]) -> int:
        """Run a command, however long it takes, and pass its output on as it comes; returns its status."""
        with self._turn:
            pending = self.start(command)
            self._read_until(b"\n" + pending._token + b" ", math.inf, write)
            status = self._read_until(b"\n", DEFAULT_TIMEOUT)
            self._running = None
            return int(status)

    def start(self, command: str) -> Pending:
        """Have the guest start a command, and return at once."""
        if self._running is not None:
            raise GuestError(f"the guest is still busy with {self._running.command!r}")
        script = command.encode()
        if len(script) > COMMAND_LIMIT_BYTES:
            raise GuestError(f"the command is longer than {COMMAND_LIMIT_BYTES} bytes: {command[:40]!r}…")
        token = b"vnic-" + secrets.token_hex(8).encode()
        try:
            self._stream.sendall(b"%s\n%s\n%s\n" % (token, script, token))
        except OSError as error:
            raise GuestGone(f"the guest is gone: {error.strerror}") from error
        self._running = Pending(self, command, token)
        return self._running

    def forget(self) -> None:
        """Stop waiting for the running command: its guest was reset."""
        self._running = None
        self._received.clear()

    def close(self) -> None:
        self._stream.close()

    def _finish(self, pending: Pending, timeout: float) -> Completed:
        if pending is not self._running:
            raise GuestError(f"the result of {pending.command!r} was taken already")
        deadline = time.monotonic() + timeout
        output = self._read_until(b"\n" + pending._token + b" ", timeout)
        status = self._read_until(b"\n", max(0.0, deadline - time.monotonic()))
        self._running = None
        return Completed(int(status), output.decode(errors="replace"))

    def _read_until(
        self, mark: bytes, timeout: float, write: Callable[[bytes], object] | None = None
    ) -> bytes:
        """The bytes before `mark`, which is taken too; those that `write` has taken meanwhile are not among them."""
        deadline = time.monotonic() + timeout
        searched = 0
        while (found := self._received.find(mark, searched)) < 0:
            searched = max(0, len(self._received) - len(mark))
            if write is not None and searched:
                write(bytes(self._received[:searched]))
                del self._received[:searched]
                searched = 0
            received = receive_before(self._stream, deadline)
            if received is None:
                raise GuestError(
                    f"no answer from the guest in {timeout:g} s; so far: {bytes(self._received[-400:])!r}"
                )
            if not received:
                raise GuestGone("the guest is gone")
            self._received += received
        before = bytes(self._received[:found])
        del self._received[: found + len(mark)]
        if write is not None and before:
            write(before)
        return before


def receive_before(stream: socket.socket, deadline: float) -> bytes | None:
    """The next bytes of a stream; empty at its end; None if none come before `deadline` (monotonic, in seconds)."""
    left = deadline - time.monotonic()
    wait = None if left == math.inf else left
    if left <= 0 or not select.select([stream], [], [], wait)[0]:
        return None
    try:
        return stream.recv(1 << 16)
    except OSError:
        return b""


def checked(command: str, completed: Completed) -> str:
    """The output without its last line end; CommandFailed if the status is not 0."""
    if completed.status:
        raise CommandFailed(command, completed.status, completed.output)
    return completed.output.removesuffix("\n")

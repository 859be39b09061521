"""What `vnic lab` and a guest's holder say to each other, over the holder's socket: a request, an answer, then bytes.

Both are a line of JSON. After an answer without an error, `exec` sends the output in pieces, each after its length, and
after an empty one the status; `console` passes bytes both ways.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from vnic.cli.client import Refused

LINE_MAX: Final = 1 << 16
ANSWER_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 15.0
LENGTH: Final = struct.Struct(">I")


class Request(msgspec.Struct, omit_defaults=True):
    do: Literal["status", "exec", "console", "stop"]
    command: str = ""


class Answer(msgspec.Struct, omit_defaults=True):
    error: str = ""
    label: str = ""
    pid: int = 0


def read_line(stream: socket.socket) -> bytes:
    """Up to a line's end, and no byte more; empty if the stream ends, or the line is too long."""
    line = bytearray()
    while len(line) < LINE_MAX:
        byte = stream.recv(1)
        if not byte:
            return b""
        if byte == b"\n":
            return bytes(line)
        line += byte
    return b""


def send_line(stream: socket.socket, message: Request | Answer) -> None:
    stream.sendall(msgspec.json.encode(message) + b"\n")


class NoHolder(Refused):
    """The node has ended: nothing listens there."""


def ask(path: Path, request: Request) -> tuple[socket.socket, Answer]:
    """The open stream and the answer. NoHolder if the node has ended; Refused if it refuses."""
    node = path.stem
    stream = socket.socket(socket.AF_UNIX)
    try:
        stream.settimeout(ANSWER_TIMEOUT_S)
        try:
            stream.connect(str(path))
            send_line(stream, request)
            line = read_line(stream)
        except (FileNotFoundError, ConnectionError):
            line = b""
        except TimeoutError:
            raise Refused(f"node '{node}' does not answer") from None
        if not line:
            raise NoHolder(f"node '{node}' has ended")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            raise Refused(f"node '{node}': {answer.error}")
        stream.settimeout(None)
    except BaseException:
        stream.close()
        raise
    return stream, answer


def run(path: Path, command: str, write: Callable[[bytes], object], *, timeout: float | None = None) -> int:
    """Run a command in the guest and pass its output on; its status. Refused if it says nothing for `timeout` s."""
    stream, _ = ask(path, Request("exec", command))
    with stream:
        stream.settimeout(timeout)
        try:
            while size := LENGTH.unpack(_exactly(stream, LENGTH.size, path))[0]:
                write(_exactly(stream, size, path))
            return int(LENGTH.unpack(_exactly(stream, LENGTH.size, path))[0])
        except TimeoutError:
            raise Refused(
                f"node '{path.stem}' says nothing for {timeout:g} s: it hangs, or another command runs in it"
            ) from None


def stop(path: Path) -> None:
    """End the guest; returns when it, and its holder, are gone. Refused if they do not go."""
    with contextlib.suppress(NoHolder):
        stream, _ = ask(path, Request("stop"))
        with stream, contextlib.suppress(ConnectionError):
            stream.settimeout(STOP_TIMEOUT_S)
            try:
                while stream.recv(1):
                    pass
            except TimeoutError:
                raise Refused(f"node '{path.stem}' does not end") from None


def _exactly(stream: socket.socket, size: int, path: Path) -> bytes:
    data = bytearray()
    while len(data) < size:
        received = stream.recv(size - len(data))
        if not received:
            raise Refused(f"node '{path.stem}' ended")
        data += received
    return bytes(data)

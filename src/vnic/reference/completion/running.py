"""Names from the running vnics, for completion: asked over QMP by plain sockets, all within half a second.

What fails, or takes longer, has no names: a completion never says what is wrong.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any, Final

from vnic.sockets import rundir
from vnic.sockets.rundir import RunDirError

TIMEOUT_S: Final = 0.5
ANSWER_MAX: Final = 64 << 20
"""Bytes that are read of an answer."""


def instances() -> list[str]:
    return list(rundir.running())


def query(command: str, name: str | None, path: str | None, **arguments: object) -> list[dict[str, Any]]:
    """The answer, which is a list, of the vnic that the command line means: `-n`, `--qmp`, or the only one."""
    where = _socket(name, path)
    if where is None:
        return []
    try:
        answer = _Asked(where, trusted=path is not None).execute(command, arguments)
    except (OSError, ValueError, RunDirError):
        return []
    return [each for each in answer if isinstance(each, dict)] if isinstance(answer, list) else []


def text(command_line: str, name: str | None, path: str | None) -> str:
    """What HMP prints."""
    where = _socket(name, path)
    if where is None:
        return ""
    try:
        asked = _Asked(where, trusted=path is not None)
        answer = asked.execute("human-monitor-command", {"command-line": command_line})
    except (OSError, ValueError, RunDirError):
        return ""
    return answer if isinstance(answer, str) else ""


def _socket(name: str | None, path: str | None) -> Path | None:
    if path is not None:
        return Path(path)
    running = rundir.running()
    if name is not None:
        return running.get(name)
    return next(iter(running.values())) if len(running) == 1 else None


class _Asked:
    """One connection, which has until `TIMEOUT_S` after its start."""

    def __init__(self, path: Path, *, trusted: bool) -> None:
        """`trusted`: the user named it, so it may be anyone's."""
        self._end = time.monotonic() + TIMEOUT_S
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._read = bytearray()
        self._path = path
        self._trusted = trusted

    def execute(self, command: str, arguments: dict[str, object]) -> object:
        """What the command returns. OSError, ValueError or RunDirError for anything else."""
        with self._sock:
            self._hurry()
            self._sock.connect(str(self._path))
            if not self._trusted:
                rundir.check_peer(self._sock)
            self._message("QMP")
            self._send({"execute": "qmp_capabilities"})
            self._message("return")
            self._send({"execute": command, "arguments": arguments})
            return self._message("return")

    def _hurry(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)

    def _send(self, message: dict[str, object]) -> None:
        self._hurry()
        self._sock.sendall(json.dumps(message).encode() + b"\n")

    def _message(self, key: str) -> object:
        """The next message that is no event: its member `key`."""
        while True:
            while b"\n" not in self._read:
                self._hurry()
                data = self._sock.recv(1 << 16)
                if not data or len(self._read) > ANSWER_MAX:
                    raise ValueError("no answer")
                self._read += data
            line, _, rest = bytes(self._read).partition(b"\n")
            self._read = bytearray(rest)
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("no message")
            if "event" not in message:
                if key not in message:
                    raise ValueError("an error")
                found: object = message[key]
                return found

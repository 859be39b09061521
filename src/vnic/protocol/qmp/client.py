"""The client's side of QMP and of the guest agent's protocol, without I/O: bytes to messages, commands to bytes.

`adopt.qmp` and `adopt.qga` feed it what a VM sends, which is hostile: a malformed message raises QmpError, and the
connection ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

MESSAGE_MAX_BYTES: Final = 1 << 20
TEXT_MAX: Final = 300


class QmpError(Exception):
    """The peer does not speak the protocol."""


class Greeting(NamedTuple):
    """QMP's first message."""

    version: str


class Reply(NamedTuple):
    """The answer to a command."""

    id: object
    value: Any
    error: str | None


class Event(NamedTuple):
    """Something happened."""

    name: str
    data: dict[str, Any]


Message: TypeAlias = Greeting | Reply | Event


class Messages:
    """The messages of one connection. QEMU sends each on a line of its own, or with `pretty=on` on several, of which
    only the last begins with a brace that closes; vnic's own parser, which takes what any client may write, is slower
    by far."""

    def __init__(self, max_bytes: int = MESSAGE_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._unread = bytearray()
        self._searched = 0
        """So many bytes of it have no line end."""
        self._lines = bytearray()
        """Of a message on several lines, those before the last one."""

    def clear(self) -> None:
        """Forget a message that is not complete."""
        self._unread.clear()
        self._lines.clear()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Those that end in `data`. Lazy: take all before the next call. Raises QmpError."""
        self._unread += data
        while (end := self._unread.find(b"\n", self._searched)) >= 0:
            line = bytes(self._unread[:end]).strip()
            del self._unread[: end + 1]
            self._searched = 0
            self._check_size(len(line))
            if not line:
                continue
            self._lines += line
            if line.endswith(b"}") and (line.startswith(b"}") or len(self._lines) == len(line)):
                message = bytes(self._lines)
                self._lines.clear()
                yield _message(_decode(message))
        self._searched = len(self._unread)
        self._check_size(len(self._unread))

    def _check_size(self, more: int) -> None:
        if len(self._lines) + more > self._max_bytes:
            raise QmpError(f"it sent a message of more than {self._max_bytes} bytes")


def _decode(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise QmpError("it sent what is no JSON") from None


def command(name: str, arguments: Mapping[str, object], number: int | None = None) -> bytes:
    """A command, with its id if it has one."""
    message: dict[str, object] = {"execute": name}
    if arguments:
        message["arguments"] = arguments
    if number is not None:
        message["id"] = number
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _message(value: object) -> Message:
    if not isinstance(value, dict):
        raise QmpError("it sent a message that is none of QMP's")
    match value:
        case {"QMP": dict(qmp)}:
            return Greeting(_version(qmp))
        case {"event": str(name)}:
            data = value.get("data")
            return Event(name, data if isinstance(data, dict) else {})
        case {"error": dict(error)}:
            desc = error.get("desc")
            text = desc[:TEXT_MAX] if isinstance(desc, str) else ""
            return Reply(value.get("id"), None, text or "no reason given")
        case {"return": result}:
            return Reply(value.get("id"), result, None)
    raise QmpError("it sent a message that is none of QMP's")


def _version(qmp: dict[str, Any]) -> str:
    match qmp.get("version"):
        case {"qemu": {"major": int(major), "minor": int(minor), "micro": int(micro)}}:
            return f"{major}.{minor}.{micro}"
    return "of an unknown version"

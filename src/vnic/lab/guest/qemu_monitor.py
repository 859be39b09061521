"""The QMP client of a QEMU guest: blocking, one command at a time, over a socket that QEMU was given at its start.

`qemu.QemuGuest` has one, for hot-plug and resets."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from vnic.lab.guest.console import receive_before
from vnic.lab.guest.errors import GuestError, GuestGone

REPLY_TIMEOUT = 60.0

Message = dict[str, Any]


class QemuMonitor:
    """`execute` commands; `wait_event` looks through what QEMU told meanwhile, too."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._received = b""
        self._negotiated = False
        self.events: list[Message] = []
        """Those that came and were not waited for."""

    def execute(self, command: str, **arguments: object) -> Any:
        """What QEMU returns; GuestError with its words if it refuses. `-` in names is written `_`."""
        if not self._negotiated:
            self._negotiated = True
            self._read(time.monotonic() + REPLY_TIMEOUT)  # the greeting
            self.execute("qmp_capabilities")
        request = {
            "execute": command,
            "arguments": {key.replace("_", "-"): arguments[key] for key in arguments},
        }
        try:
            self._stream.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise GuestGone(f"QEMU is gone: {error.strerror}") from error
        deadline = time.monotonic() + REPLY_TIMEOUT
        while True:
            message = self._read(deadline)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise GuestError(f"QEMU refused {command}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_event(self, name: str, timeout: float = REPLY_TIMEOUT, **data: object) -> Message:
        """The first event of that name whose data has these members; those before it are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            event = self.events.pop(0) if self.events else self._read(deadline)
            if event.get("event") == name and data.items() <= event.get("data", {}).items():
                return event

    def close(self) -> None:
        self._stream.close()

    def _read(self, deadline: float) -> Message:
        while b"\n" not in self._received:
            data = receive_before(self._stream, deadline)
            if data is None:
                raise GuestError("QEMU said nothing on its monitor in time")
            if not data:
                raise GuestGone("QEMU is gone")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: Message = json.loads(line)
        return message

"""A QMP client that sends what it likes, for tests of refusals."""

from __future__ import annotations

import json
import socket
from typing import Any


class Qmp:
    """A client that sends what it likes."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self._lines = self.socket.makefile("rb")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """The reply; events are left out."""
        message: dict[str, Any] = {"execute": command}
        if arguments is not None:
            message["arguments"] = arguments
        self.socket.sendall(json.dumps(message).encode())
        while True:
            reply: dict[str, Any] = json.loads(self._lines.readline())
            if "event" not in reply:
                return reply

    def value(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        return self.ask(command, arguments)["return"]

    def hmp(self, line: str) -> str:
        return str(self.value("human-monitor-command", {"command-line": line}))

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

"""A `vnic run` as a process of its own, with a bare QMP socket: what the measures time from outside.

Each measure of `vnic bench` starts its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import vnic
from vnic.lab.bench.report import Missing

GREETING_TIMEOUT_S = 30.0
SHM = "/dev/shm"
_PACKAGE_PARENT = str(Path(vnic.__file__).parents[1])
"""So that the process runs this very vnic, installed or not."""


def environment_of_this() -> dict[str, str]:
    """The environment of a process that is to run this very vnic."""
    return {**os.environ, "PYTHONPATH": _PACKAGE_PARENT}


def _memory_folder() -> str | None:
    """A folder in memory, as /run is: to bind a socket is work for the file system of a disk. None: $TMPDIR."""
    return SHM if os.access(SHM, os.W_OK | os.X_OK) else None


class VnicProcess:
    """A context manager around `vnic run ARGUMENTS`; `folder` is its own, for sockets and journal, and goes with it.
    `environment` is what its variables have beside ours, `inside` a command that runs it, as `ip netns exec NAME`."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        inside: Sequence[str] = (),
        patience_s: float = GREETING_TIMEOUT_S,
    ) -> None:
        self._patience_s = patience_s
        self._inside = list(inside)
        self._scratch = tempfile.TemporaryDirectory(prefix="vnic-bench-", dir=_memory_folder())
        self.folder = Path(self._scratch.name)
        self._environment = {
            **environment_of_this(),
            "XDG_STATE_HOME": str(self.folder),
            **(environment or {}),
        }
        self._arguments = [argument.replace("@", str(self.folder)) for argument in arguments]
        self.start_seconds = 0.0
        """From the start of the process to QMP's greeting."""
        self.qmp: socket.socket

    def __enter__(self) -> Self:
        path = self.folder / "qmp.sock"
        started = time.perf_counter()
        # Its log would be mixed with the rows: each loss of a back-end is a warning.
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *self._inside,
                    sys.executable,
                    "-m",
                    "vnic",
                    "run",
                    "-qmp",
                    f"unix:{path},server=on,wait=off",
                    *self._arguments,
                ],
                stderr=log,
                env=self._environment,
            )
        try:
            self.qmp = self._connect(path, started + self._patience_s)
            self.qmp.recv(4096)
            self.start_seconds = time.perf_counter() - started
            self.execute("qmp_capabilities")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _connect(self, path: Path, deadline: float) -> socket.socket:
        while True:
            qmp = socket.socket(socket.AF_UNIX)
            try:
                qmp.connect(str(path))
            except OSError as error:
                qmp.close()
                if self.process.poll() is not None or time.perf_counter() > deadline:
                    log = (self.folder / "log").read_text(errors="replace").strip()
                    raise Missing(f"vnic run did not come up: {log or error}") from None
                time.sleep(0.001)
            else:
                qmp.settimeout(self._patience_s)
                return qmp

    def reconnect(self) -> None:
        """Have a new QMP connection: control was started again."""
        self.qmp.close()
        self.qmp = self.second_client()

    def second_client(self) -> socket.socket:
        """Another QMP client, past its greeting and negotiation; the caller closes it."""
        qmp = self._connect(self.folder / "qmp.sock", time.perf_counter() + self._patience_s)
        qmp.recv(4096)
        qmp.sendall(b'{"execute":"qmp_capabilities"}\n')
        qmp.recv(4096)
        return qmp

    def execute(self, command: str, **arguments: object) -> object:
        """Run one QMP command; events that come before its reply are passed over."""
        request = {
            "execute": command,
            "arguments": {key.replace("_", "-"): arguments[key] for key in arguments},
        }
        self.qmp.sendall(json.dumps(request).encode() + b"\n")
        return self.reply()

    def link(self, name: str) -> dict[str, object]:
        """The client's entry of query-links."""
        reply = cast(dict[str, list[dict[str, object]]], self.execute("query-links", name=name))
        return reply["return"][0]

    def wait_link(self, name: str, up: bool, seconds: float = 30.0) -> None:
        """Poll until the link has that state; Missing if it does not get there."""
        deadline = time.perf_counter() + seconds
        while self.link(name)["link"] != ("up" if up else "down"):
            if time.perf_counter() > deadline:
                raise Missing(f"the link of {name} did not come {'up' if up else 'down'}")
            time.sleep(0.01)

    def wait_on_the_wire(self, *names: str, seconds: float = 30.0) -> None:
        """Poll until vnic-wire moves the packets of these clients; Missing, with the reason, if it does not."""
        deadline = time.perf_counter() + seconds
        for name in names:
            while (link := self.link(name)).get("datapath") != "wire":
                if time.perf_counter() > deadline:
                    reason = link.get("datapath-reason", "its datapath is not the wire")
                    raise Missing(f"vnic-wire does not move the packets of {name}: {reason}")
                time.sleep(0.01)

    def reply(self) -> object:
        """The next reply."""
        text = b""
        while True:
            text += self.qmp.recv(65536)
            *lines, text = text.split(b"\r\n")
            for line in lines:
                message = json.loads(line)
                if "return" in message or "error" in message:
                    return message

    @staticmethod
    def replies(client: socket.socket, number: int) -> list[object]:
        """So many replies of QMP; Missing at an error."""
        replies: list[object] = []
        text = bytearray()
        while len(replies) < number:
            part = client.recv(1 << 20)
            if not part:
                raise Missing("vnic closed its monitor")
            text += part
            if not part.endswith(b"\r\n"):
                continue
            for line in bytes(text).split(b"\r\n")[:-1]:
                message = json.loads(line)
                if "error" in message:
                    raise Missing(f"vnic: {message['error']['desc']}")
                if "return" in message:
                    replies.append(message["return"])
            text.clear()
        return replies

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "qmp"):
            self.qmp.close()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._scratch.cleanup()

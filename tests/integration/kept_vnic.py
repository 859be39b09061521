"""`vnic run --keep` whose control is killed, and a QMP client that connects again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tests.integration.process import COMMAND, PATIENCE_S, Place, is_listening, wait_for
from tests.processes import children


class Lost(Exception):
    """The connection ended before the answer came."""


class Qmp:
    """A client that waits for each answer. `events` are those that came in between."""

    def __init__(self, path: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(PATIENCE_S)
        try:
            self._sock.connect(path)
            self._file = self._sock.makefile("rwb")
            self._line()
            self.run("qmp_capabilities")
        except BaseException:
            self._sock.close()
            raise

    @classmethod
    def again(cls, path: str) -> Self:
        """As soon as someone answers there."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return cls(path)
            except (OSError, Lost):
                assert time.monotonic() < end, "no one answers"
                time.sleep(0.002)

    def _line(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise Lost
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, command: str, /, **arguments: object) -> Any:
        """What the command returns. Raises Lost, and AssertionError with the text of an error."""
        try:
            message = {
                "execute": command,
                "arguments": {k.replace("_", "-"): v for k, v in arguments.items()},
            }
            self._file.write(json.dumps(message).encode() + b"\n")
            self._file.flush()
            while "event" in (answer := self._line()):
                self.events.append(answer)
        except OSError:
            raise Lost from None
        assert "return" in answer, answer
        return answer["return"]

    def close(self) -> None:
        with suppress(OSError):  # unsent output of a connection that ended
            self._file.close()
        self._sock.close()


class KeptVnic:
    """A `vnic run --keep` and its present control."""

    def __init__(self, place: Place, options: tuple[str, ...]) -> None:
        self.place = place
        self._log = open(place.path("log"), "w+")  # noqa: SIM115  # closed in `end`
        self.process: subprocess.Popen[str] = place.start(
            "run", "--keep", *options, command=COMMAND, output=self._log
        )
        path = place.qmp_path()
        wait_for(lambda: is_listening(path) or self.process.poll() is not None)
        assert self.process.poll() is None, self.log()
        self.qmp = Qmp.again(path)

    def log(self) -> str:
        return Path(self.place.path("log")).read_text()

    @property
    def control(self) -> int:
        """The pid of control; waits for it."""
        found: list[int] = []

        def there() -> bool:
            found[:] = controls_of(self.process.pid)
            return bool(found)

        wait_for(there)
        return found[0]

    @property
    def wires(self) -> list[int]:
        """The pids of vnic-wire: one that an earlier control started is the supervisor's child."""
        parents = (self.process.pid, self.control)
        return [pid for parent in parents for pid, name in children(parent).items() if name == "vnic-wire"]

    def kill(self) -> float:
        """Kill control, and wait until another one answers; the seconds that took."""
        self.kill_only()
        killed = time.monotonic()
        self.reconnect()
        self.qmp.run("query-status")
        return time.monotonic() - killed

    def upgrade(self, program: str) -> None:
        """Go on with another program, and wait until it answers."""
        before = self.qmp.run("query-vnic")["pid"]
        self.qmp.run("vnic-upgrade", program=program)
        end = time.monotonic() + PATIENCE_S
        while True:
            with suppress(Lost):
                self.reconnect()
                if self.qmp.run("query-vnic")["pid"] != before:
                    return
            assert time.monotonic() < end, self.log()
            time.sleep(0.01)

    def kill_only(self) -> None:
        os.kill(self.control, signal.SIGKILL)

    def reconnect(self) -> None:
        self.qmp.close()
        self.qmp = Qmp.again(self.place.qmp_path())

    def end(self) -> str:
        """End it in order; all that it said."""
        self.qmp.close()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        said = self.log()
        self._log.close()
        assert code == 0, said
        assert "Traceback" not in said, said
        return said


def controls_of(supervisor: int) -> list[int]:
    """Its children that are vnics: what they have started is the supervisor's when they are dead."""
    found = []
    for pid in children(supervisor):
        with suppress(OSError):
            if "run" in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                found.append(pid)
    return found


@contextmanager
def kept_vnic(place: Place, *options: str) -> Iterator[KeptVnic]:
    vnic = KeptVnic(place, options)
    try:
        yield vnic
        vnic.end()
    finally:
        if vnic.process.poll() is None:
            vnic.process.kill()
            vnic.process.wait()
        vnic.qmp.close()
        vnic._log.close()

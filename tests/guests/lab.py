"""A `vnic run` in a process of its own, driven over QMP by a client that shares no code with it.

Tests boot real kernels on its NICs and compare what the guest says with what vnic says.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.integration.process import COMMAND, PATIENCE_S, SOURCE, Place
from tests.needs import need
from tests.places import short_folder

from vnic.lab.guest import kit
from vnic.lab.guest.uml import UmlGuest
from vnic.lab.played.closing import Closing

Reply = dict[str, Any]

TIMEOUT_S = PATIENCE_S
SOURCES = str(SOURCE)


class Qmp:
    """A QMP client of few words: JSON lines over a socket, in order."""

    def __init__(self, path: str | Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._received = b""
        self.events: list[Reply] = []
        assert "QMP" in self._read(TIMEOUT_S)
        self.execute("qmp_capabilities")

    def close(self) -> None:
        self._socket.close()

    def _read(self, timeout: float) -> Reply:
        """The next object; TimeoutError if none comes in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                raise TimeoutError("nothing came over QMP")
            data = self._socket.recv(1 << 16)
            if not data:
                raise EOFError("vnic closed its monitor")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        found: Reply = json.loads(line)
        return found

    def send(self, command: str, **arguments: object) -> None:
        """Send without waiting for the reply, which `reply` takes later."""
        message: Reply = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def reply(self) -> Any:
        """The next reply's `return`; events before it are kept."""
        while True:
            found = self._read(TIMEOUT_S)
            if "event" in found:
                self.events.append(found)
                continue
            assert "return" in found, found
            return found["return"]

    def execute(self, command: str, **arguments: object) -> Any:
        self.send(command, **arguments)
        return self.reply()

    def forget_events(self) -> None:
        """Drop the events that came until now."""
        self.execute("query-status")
        self.events.clear()

    def wait_event(self, event_name: str, timeout: float = TIMEOUT_S, **data: object) -> Reply:
        """The next event of that name whose data has these members; those before it are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            event = self.events.pop(0) if self.events else self._read(deadline - time.monotonic())
            if event["event"] == event_name and data.items() <= event.get("data", {}).items():
                return event

    # -- words of the tests -------------------------------------------------------------------------------------

    def set_link(self, name: str, up: bool) -> None:
        self.execute("set_link", name=name, up=up)

    def link(self, name: str) -> Reply:
        found: Reply = self.execute("query-links", name=name)[0]
        return found

    def holds(self, name: str) -> set[str]:
        return {hold["kind"] for hold in self.link(name)["holds"]}


class Vnic(Closing):
    """A running `vnic run`, ended by the `with` around it; `folder` is its working directory, and holds its sockets."""

    def __init__(self, folder: Path, options: Sequence[str], command: Sequence[str] = COMMAND) -> None:
        self.folder = folder
        self._log = folder / "vnic.log"
        with self._log.open("w") as log:
            qmp = ("-qmp", "unix:qmp.sock,server=on,wait=off")
            self.process = Place(folder).start("run", *qmp, *options, command=command, output=log)
        try:
            self.qmp = self._connected()
        except BaseException:
            self._kill()
            raise

    def close(self) -> None:
        self.end()

    def _connected(self) -> Qmp:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return Qmp(self.socket("qmp"))
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.01)

    def _kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def socket(self, name: str) -> Path:
        return self.folder / f"{name}.sock"

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def rss_kib(self) -> int:
        """The process's resident memory."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def end(self) -> int:
        """SIGTERM; the exit code. May be called again."""
        self.qmp.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(TIMEOUT_S)
        finally:
            self._kill()

    def kill(self) -> None:
        """SIGKILL: its sockets stay behind, but for the monitor's, which the next one is waited for at."""
        self._kill()
        self.qmp.close()
        self.socket("qmp").unlink(missing_ok=True)


def nic(name: str, netdev: str | None = "net0", **more: str) -> list[str]:
    """The option of a virtio-net on a vhost-user socket of its own name."""
    words = [f"virtio-net,id={name},attach.type=vhost-user,attach.path={name}.sock"]
    words += [f"netdev={netdev}"] if netdev else []
    return ["-device", ",".join(words + [f"{key}={value}" for key, value in more.items()])]


ECHO = ["-netdev", "echo,id=net0,ip=10.0.2.2"]


@contextlib.contextmanager
def vnic_run(*options: str, command: Sequence[str] = COMMAND) -> Iterator[Vnic]:
    """A `vnic run` in a folder of its own; it must end well."""
    with short_folder() as folder:
        with Vnic(folder, options, command) as running:
            yield running
        code, log = running.process.returncode, running.log()
        assert code == 0, log
        assert "Traceback" not in log, log


@contextlib.contextmanager
def uml(running: Vnic, *nics: str, modules: Sequence[str] = ()) -> Iterator[UmlGuest]:
    """A booted guest on these NICs."""
    need("uml")
    with UmlGuest([running.socket(name) for name in nics], kit=kit.find_uml(), modules=modules) as guest:
        yield guest


def interrupts(guest: UmlGuest, device: int = 0) -> int:
    """How often the guest was interrupted by its virtio device."""
    for line in guest.run("cat /proc/interrupts").splitlines():
        if f"virtio-uml.{device}-input.0" in line:
            return int(line.split()[1])
    raise AssertionError("no line of the NIC in /proc/interrupts")

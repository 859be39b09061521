"""`vnic run` and the verbs as processes of their own, each test with a runtime folder of its own."""

from __future__ import annotations

import contextlib
import io
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from unittest import mock

from tests import leftovers

from vnic.cli.main import main
from vnic.lab.played.driver import NetDriver
from vnic.lab.played.guest_memory import FakeGuestMemory
from vnic.lab.played.vhost_user_client import (
    ALL_PROTOCOL_FEATURES,
    Disconnected,
    SocketWire,
    VhostUserClient,
)
from vnic.protocol.vhost_user.messages import P_CONFIG

SOURCE = Path(__file__).parents[2] / "src"
COMMAND = [sys.executable, "-m", "vnic"]
PATIENT = [sys.executable, str(Path(__file__).parents[1] / "fakes" / "patient_vnic.py")]
PATIENCE_S = 60.0
# VNIC_TEST_SANDBOX: options for each vnic of these tests, as "-sandbox on".
STATE = ".state"
"""Below the folder of a Place: what outlives vnic, the journals."""


class Place:
    """A folder with a short path (a UNIX socket's may have 107 bytes), which is also $XDG_RUNTIME_DIR.

    What `start` started ends with it, also where a test fails before it ends that itself.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: of the caller, which removes it; by default a new one."""
        self._started: list[subprocess.Popen[str]] = []
        self._owns_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="vnic-t-"))
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / STATE),
            "PYTHONPATH": str(SOURCE),
            "PYTHONWARNINGS": "error",
            "VNIC_LOG": "warning",
        }

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                killed(process)
        if self._owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def qmp_path(self, name: str = "vnic") -> str:
        return str(self.folder / "vnic" / f"{name}.qmp")

    def files(self) -> list[str]:
        """The names of all files, in the runtime folder too; journals are left out."""
        return sorted(
            name
            for folder, _, names in os.walk(self.folder)
            if STATE not in Path(folder).parts
            for name in names
        )

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end, within this process: a process for each takes most of a test's time. `run` only where
        it starts nothing: its help, its usage errors."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    def command(self, *words: str, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run `vnic …` to its end, as a process."""
        return subprocess.run(
            [*COMMAND, *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(
        self, *words: str, command: Sequence[str] = COMMAND, output: IO[str] | None = None
    ) -> subprocess.Popen[str]:
        """Start `vnic …`, its output in pipes, or in the file `output`."""
        if words[:1] == ("run",):
            words = ("run", *os.environ.get("VNIC_TEST_SANDBOX", "").split(), *words[1:])
        process = subprocess.Popen(
            [*command, *words],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.PIPE,
            stderr=output or subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *options: str, name: str = "vnic", command: Sequence[str] = COMMAND) -> Running:
        """Start `vnic run` and wait until its monitor is there."""
        given = ("-name", name) if name != "vnic" else ()
        return Running(self, self.start("run", *given, *options, command=command), self.qmp_path(name))


@contextlib.contextmanager
def new_place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.close()


class Running:
    """A `vnic run` that has come up; a context manager that ends it and checks that it ended well."""

    def __init__(self, place: Place, process: subprocess.Popen[str], qmp_path: str) -> None:
        self.place = place
        self.process = process
        self.qmp_path = qmp_path
        wait_for(lambda: is_listening(qmp_path) or process.poll() is not None)
        if process.poll() is not None:
            raise AssertionError(f"vnic run ended at once: {process.communicate()[1]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code, stderr = self.end()
        if kind is None:
            assert code == 0, stderr
            assert "Traceback" not in stderr, stderr

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Signal it (unless it has ended); its exit code and what it said."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for its end."""
        try:
            _, stderr = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"vnic run did not end: {killed(self.process)}") from None
        return self.process.returncode, stderr


def killed(process: subprocess.Popen[str]) -> str:
    """Kill it, and all that still has its pipes, as a stopped child does; what it said on stderr."""
    process.kill()
    try:
        return process.communicate(timeout=5)[1]
    except subprocess.TimeoutExpired:
        leftovers.end_all()
        return process.communicate()[1]


def is_listening(path: str) -> bool:
    """Whether a UNIX socket takes connections, which its path does a moment later than it is there."""
    if not os.path.exists(path):
        return False
    sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]  # unix(7)
    names = (path, os.path.basename(path))  # bound by the one or the other
    return any(fields[3] == "00010000" and fields[-1] in names for fields in sockets)


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


class PlayedGuest:
    """A guest on a NIC's vhost-user socket that reads its link whenever it is told that the config changed.

    Its driver is of tests/fakes; a thread answers, as a kernel would.
    """

    def __init__(self, path: str, protocol_features: int) -> None:
        self._memory = FakeGuestMemory()
        self._driver = NetDriver(self._memory)
        self._wire = SocketWire.connect(path)
        self._client = VhostUserClient(self._wire, self._memory, self._driver)
        self._client.start(protocol_features)
        self._link_up = bool(protocol_features & P_CONFIG) and self._client.link_up()
        self.obeys = threading.Event()
        """Cleared, the guest ignores its interrupts."""
        self.obeys.set()
        self.gone = threading.Event()
        """Set when vnic closed the connection."""
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        with contextlib.suppress(Disconnected):
            while not self._ends.wait(0.002):
                if self.obeys.is_set() and self._client.config_changes():
                    self._link_up = self._client.link_up()
                if _is_closed(self._wire.sock):
                    break
        self.gone.set()

    def sees_up(self) -> bool:
        """The link as the guest last read it."""
        return self._link_up

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
        self._client.close()
        self._driver.close()
        self._memory.close()


def _is_closed(sock: socket.socket) -> bool:
    """Whether the other end closed; what it sent stays unread."""
    readable, _, _ = select.select([sock], [], [], 0)
    try:
        return bool(readable) and not sock.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


@contextlib.contextmanager
def guest_on(path: str, protocol_features: int = ALL_PROTOCOL_FEATURES) -> Iterator[PlayedGuest]:
    guest = PlayedGuest(path, protocol_features)
    try:
        yield guest
    finally:
        guest.close()

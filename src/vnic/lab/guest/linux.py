"""LinuxGuest: what all booted kernels have in common, however they run: commands, carrier, reboot, and a sure end.

uml.py and qemu.py say how a kernel is started; init.sh is what runs in it.
"""

from __future__ import annotations

import abc
import contextlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from os import killpg
from pathlib import Path
from typing import BinaryIO, Final, Self

from vnic.lab.guest.console import (
    DEFAULT_TIMEOUT,
    Completed,
    Console,
    Pending,
    checked,
)
from vnic.lab.guest.errors import BootFailed, GuestError, GuestGone
from vnic.lab.guest.initrd import build_initrd
from vnic.scratch import ScratchFolder, remove_leftovers

# All are for a machine that is busy, or stands still for a while.
BOOT_TIMEOUT = 60.0
CARRIER_TIMEOUT = 30
PING_TIMEOUT = 10
TERMINATE_TIMEOUT = 2.0
LOG_TAIL = 1500


_GUARD: Final = """
read -r _
tries=20
while [ $tries -gt 0 ] && kill -s 0 -- "-$0"; do sleep 0.1; tries=$((tries - 1)); done
kill -s KILL -- "-$0"
"""


def _guard(group: int) -> subprocess.Popen[bytes]:
    """A process that outlives this one and then ends the guest's group: SIGTERM, which the kernel gets when its parent
    dies, does not end a User-Mode Linux that is stopped in the middle of a helper's start. Its input ends with us."""
    return subprocess.Popen(
        ["sh", "-c", _GUARD, str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class LinuxGuest(abc.ABC):
    """A context manager that boots the guest, eth0 being its first NIC, and cleans up."""

    def __init__(self, files: Mapping[str, bytes] | None, boot_timeout: float) -> None:
        self._files = files
        self._boot_timeout = boot_timeout
        self._scratch: ScratchFolder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.boot_seconds = 0.0
        """How long the last boot took."""

    # -- what a kind of guest provides --------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What kind of guest it is, for a person."""

    @abc.abstractmethod
    def _parts(self) -> tuple[Path, Iterable[Path]]:
        """A static busybox, and the modules in the order to load them."""

    @abc.abstractmethod
    def _launch(
        self, folder: Path, initrd: Path, console: socket.socket, log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        """Start the kernel as the leader of a session of its own; `console` is to be the serial line $VNIC_TTY."""

    # -- life ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The guest's process; it leads the group of all its processes."""
        return self._booted_process().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def boot(self, timeout: float | None = None) -> None:
        """Start the kernel and wait until it takes commands, its NICs being up."""
        if self._process is not None:
            raise GuestError("the guest was booted already")
        started = time.monotonic()
        remove_leftovers()
        self._scratch = ScratchFolder("vnic-guest-")
        folder = self._scratch.path
        initrd = folder / "initrd"
        initrd.write_bytes(build_initrd(*self._parts(), self._files))
        host_end, guest_end = socket.socketpair()
        self._console = Console(host_end)
        with guest_end, (folder / "log").open("wb") as log:
            self._process = self._launch(folder, initrd, guest_end, log)
        self._guard = _guard(self._process.pid)
        self._wait_ready(timeout)
        self.boot_seconds = time.monotonic() - started

    def reboot(self, timeout: float | None = None) -> None:
        """Reboot the guest at once, as its reset button would, and wait until it takes commands again."""
        console = self._booted_console()
        console.start("reboot -f")
        console.forget()
        self._wait_ready(timeout)

    def wait_end(self) -> None:
        """Wait, however long, until the guest powers itself off."""
        self._booted_process().wait()

    def kill(self) -> None:
        """End the guest's processes by SIGKILL, in the middle of whatever they do; `close` is still to be called."""
        process = self._booted_process()
        with contextlib.suppress(ProcessLookupError):
            killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """End the guest, whatever it does, and remove its files; may be called again."""
        if self._process is not None:
            self._end(self._process)
        if self._guard is not None:
            self._guard.communicate()  # the end of its input; the group that it guards is gone
            self._guard = None
        if self._console is not None:
            self._console.close()
            self._console = None
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """SIGTERM, on which UML takes its host processes with it; then SIGKILL to what is left of the group."""
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TERMINATE_TIMEOUT)
        # A SIGKILL of UML's kernel alone would leave its helpers behind, one of which may spin.
        with contextlib.suppress(ProcessLookupError):
            killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _wait_ready(self, timeout: float | None) -> None:
        timeout = self._boot_timeout if timeout is None else timeout
        try:
            complaints = self._booted_console().wait_ready(timeout).strip()
        except GuestGone as error:
            raise BootFailed(f"the guest ended before it had booted:\n{self.log()[-LOG_TAIL:]}") from error
        except GuestError as error:
            raise BootFailed(
                f"the guest did not boot in {timeout:g} s: {error}\n{self.log()[-LOG_TAIL:]}"
            ) from error
        if complaints:
            raise BootFailed(f"the guest is not whole: {complaints}\n{self.log()[-LOG_TAIL:]}")

    def _booted_process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GuestError("the guest was not booted")
        return self._process

    def _booted_console(self) -> Console:
        if self._console is None:
            raise GuestError("the guest is not running")
        return self._console

    def log(self) -> str:
        """What the kernel printed."""
        if self._scratch is None:
            return ""
        return (self._scratch.path / "log").read_text(errors="replace")

    # -- commands -----------------------------------------------------------------------------------------------

    def run(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Run a shell command in the guest; returns what it printed, raises CommandFailed if it fails."""
        return checked(command, self.try_run(command, timeout))

    def try_run(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> Completed:
        """Run a shell command in the guest; returns how it ended."""
        return self._booted_console().run(command, timeout)

    def follow(self, command: str, write: Callable[[bytes], object]) -> int:
        """Run a shell command in the guest, however long it takes, and pass its output on; returns its status."""
        return self._booted_console().follow(command, write)

    def start(self, command: str) -> Pending:
        """Start a shell command in the guest and return at once; one runs at a time."""
        return self._booted_console().start(command)

    def set_address(self, address: str, interface: str = "eth0") -> None:
        """Give an interface an address, in place of those that it had."""
        self.run(f"ip addr flush dev {interface}; ip addr add {address} dev {interface}")

    def ping(self, address: str, timeout: int = PING_TIMEOUT) -> float | None:
        """The round trip in milliseconds; None if no answer came in `timeout` seconds."""
        done = self.try_run(f"ping -c 1 -W {timeout} {address}")
        found = re.search(r"time=([0-9.]+) ms", done.output)
        return float(found[1]) if found else None

    def carrier(self, interface: str = "eth0") -> bool:
        return self.run(f"cat /sys/class/net/{interface}/carrier") == "1"

    def wait_carrier(self, up: bool, interface: str = "eth0", *, timeout: int = CARRIER_TIMEOUT) -> bool:
        """Wait at most `timeout` seconds for the carrier; whether it became so."""
        done = self.try_run(f"wait_carrier {interface} {up:d} {timeout}", timeout + DEFAULT_TIMEOUT)
        return done.status == 0

    def start_wait_carrier(
        self, up: bool, interface: str = "eth0", *, timeout: int = CARRIER_TIMEOUT
    ) -> Pending:
        """The same, begun before its cause: the result's status is 0 when the carrier became so."""
        return self.start(f"wait_carrier {interface} {up:d} {timeout}")

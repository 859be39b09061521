"""UmlGuest: a User-Mode Linux on NIC sockets of vnic, booted in about 1.5 s without root, and shell commands in it.

The kernel connects to each NIC's vhost-user socket while it boots, so the NICs must listen before `boot`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from . import exec_uml
from .console import DEFAULT_TIMEOUT, Completed, Console, Pending, checked
from .errors import BootFailed, GuestError
from .initrd import build_initrd
from .kit import VIRTIO_NET_MODULES, UmlKit, obtain_uml

BOOT_TIMEOUT = 30.0

# threads-max follows the memory, and boot forks a helper for each device: with 64 MiB the first fork of /init may fail.
DEFAULT_MEMORY_MIB = 128

_VIRTIO_ID_NET = 1
_SOCKET_PATH_LIMIT = 107  # sun_path without its NUL

# Since then UML's floating-point state is as large as the CPU's; before, see exec_uml.
_FIRST_VERSION_WITH_FULL_STATE = (6, 13)
_NO_AVX = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW"


class UmlGuest:
    """A guest with one NIC for each of `sockets`, eth0 first; a context manager that boots it and cleans up.

    `modules` are loaded besides virtio_net's (`ipv6`), `files` are put into the guest's root by path.
    """

    def __init__(
        self,
        sockets: Sequence[str | Path] = (),
        mem: int = DEFAULT_MEMORY_MIB,
        *,
        kit: UmlKit | None = None,
        modules: Sequence[str] = (),
        files: Mapping[str, bytes] | None = None,
        boot_timeout: float = BOOT_TIMEOUT,
    ) -> None:
        self._sockets = [_checked_socket(path) for path in sockets]
        self._memory_mib = mem
        self._kit = kit or obtain_uml()
        self._modules = (*VIRTIO_NET_MODULES, *modules)
        self._files = files
        self._boot_timeout = boot_timeout
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self.boot_seconds = 0.0
        """How long the last boot took."""

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The kernel's process; it leads the group of all processes of the guest."""
        if self._process is None:
            raise GuestError("the guest was not booted")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def boot(self, timeout: float | None = None) -> None:
        """Start the kernel and wait until it takes commands, its NICs being up."""
        if self._process is not None:
            raise GuestError("the guest was booted already")
        timeout = self._boot_timeout if timeout is None else timeout
        started = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="vnic-uml-"))
        initrd = self._folder / "initrd"
        modules = [self._kit.module(name) for name in self._modules]
        initrd.write_bytes(build_initrd(self._kit.busybox, modules, self._files))
        host_end, guest_end = socket.socketpair()
        self._console = Console(host_end)
        with guest_end, (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._launcher(), *self._kernel_arguments(initrd, guest_end.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[guest_end.fileno()],
                env={**os.environ, "TMPDIR": self._memory_folder()},
                start_new_session=True,
            )
        try:
            self._console.wait_ready(timeout)
        except GuestError as error:
            raise BootFailed(
                f"the guest did not boot in {timeout:g} s: {error}\n{self.log()[-1500:]}"
            ) from error
        self.boot_seconds = time.monotonic() - started

    def run(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> str:
        """Run a shell command in the guest; returns what it printed, raises CommandFailed if it fails."""
        return checked(command, self.try_run(command, timeout))

    def try_run(self, command: str, timeout: float = DEFAULT_TIMEOUT) -> Completed:
        """Run a shell command in the guest; returns how it ended."""
        return self._booted_console().run(command, timeout)

    def start(self, command: str) -> Pending:
        """Start a shell command in the guest and return at once; one runs at a time."""
        return self._booted_console().start(command)

    @property
    def label(self) -> str:
        return f"User-Mode Linux {self._kit.version_text()}"

    def set_address(self, address: str, interface: str = "eth0") -> None:
        """Give an interface an address, in place of those that it had."""
        self.run(f"ip addr flush dev {interface}; ip addr add {address} dev {interface}")

    def ping(self, address: str, timeout: int = 2) -> float | None:
        """The round trip in milliseconds; None if no answer came in `timeout` seconds."""
        done = self.try_run(f"ping -c 1 -W {timeout} {address}")
        found = re.search(r"time=([0-9.]+) ms", done.output)
        return float(found[1]) if found else None

    def carrier(self, interface: str = "eth0") -> bool:
        return self.run(f"cat /sys/class/net/{interface}/carrier") == "1"

    def wait_carrier(self, up: bool, interface: str = "eth0", *, timeout: int = 5) -> bool:
        """Wait at most `timeout` seconds for the carrier; whether it became so."""
        return (
            self.try_run(f"wait_carrier {interface} {up:d} {timeout}", timeout + DEFAULT_TIMEOUT).status == 0
        )

    def start_wait_carrier(self, up: bool, interface: str = "eth0", *, timeout: int = 5) -> Pending:
        """The same, begun before its cause: the result's status is 0 when the carrier became so."""
        return self.start(f"wait_carrier {interface} {up:d} {timeout}")

    def reboot(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Reboot the guest at once, as its reset button would, and wait until it takes commands again."""
        console = self._booted_console()
        console.start("reboot -f")
        console.forget()
        try:
            console.wait_ready(timeout)
        except GuestError as error:
            raise BootFailed(
                f"the guest did not come back in {timeout:g} s: {error}\n{self.log()[-1500:]}"
            ) from error

    def poweroff(self, timeout: float = 5.0) -> None:
        """Power the guest off in order, then clean up."""
        if self.running:
            with contextlib.suppress(GuestError, subprocess.TimeoutExpired):
                self.start("poweroff -f")
                self._popen().wait(timeout)
        self.close()

    def log(self) -> str:
        """What the kernel printed."""
        if self._folder is None:
            return ""
        return (self._folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """End the guest, whatever it does, and remove its files; may be called again."""
        if self._process is not None:
            self._end(self._process)
        if self._console is not None:
            self._console.close()
            self._console = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """SIGTERM, on which UML takes its host processes with it; then SIGKILL to what is left of the group."""
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
        # A SIGKILL of the kernel alone would leave its helpers behind, one of which may spin.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _popen(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GuestError("the guest was not booted")
        return self._process

    def _booted_console(self) -> Console:
        if self._console is None:
            raise GuestError("the guest is not running")
        return self._console

    def _memory_folder(self) -> str:
        """Where the guest's memory file goes: a tmpfs with room for it, so that no disk is written."""
        with contextlib.suppress(OSError):
            if shutil.disk_usage("/dev/shm").free > self._memory_mib << 20:
                return "/dev/shm"
        return tempfile.gettempdir()

    def _launcher(self) -> list[str]:
        if self._kit.version >= _FIRST_VERSION_WITH_FULL_STATE:
            return [str(self._kit.kernel)]
        return [sys.executable, "-I", "-S", exec_uml.__file__, str(self._kit.kernel)]

    def _kernel_arguments(self, initrd: Path, console_fd: int) -> list[str]:
        arguments = [
            f"mem={self._memory_mib}M",
            f"initrd={initrd}",
            f"uml_dir={initrd.parent}",
            "rdinit=/init",
            "quiet",
            "con=null",
            "con0=null,fd:1",  # the kernel's log; commands have a line of their own
            "ssl=null",
            f"ssl0=fd:{console_fd}",
            "VNIC_TTY=ttyS0",
        ]
        if self._kit.version < _FIRST_VERSION_WITH_FULL_STATE:
            arguments.append(_NO_AVX)
        for index, path in enumerate(self._sockets):
            arguments.append(f"virtio_uml.device={path}:{_VIRTIO_ID_NET}:{index}")
        return arguments


def _checked_socket(path: str | Path) -> str:
    text = os.path.abspath(path)
    if ":" in text or " " in text:
        raise GuestError(f"the kernel cannot take the socket path {text!r}: it holds a colon or a space")
    if len(os.fsencode(text)) > _SOCKET_PATH_LIMIT:
        raise GuestError(f"the socket path {text!r} is longer than {_SOCKET_PATH_LIMIT} bytes")
    return text

"""UmlGuest: a User-Mode Linux on NIC sockets of vnic, booted in about 1.5 s without root.

The kernel connects to each NIC's vhost-user socket while it boots, so the NICs must listen before `boot`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from . import exec_uml
from .errors import GuestError
from .initrd import module_closure
from .kit import UmlKit, obtain_uml
from .linux import BOOT_TIMEOUT, LinuxGuest

# threads-max follows the memory, and boot forks a helper for each device: with 64 MiB the first fork of /init may fail.
DEFAULT_MEMORY_MIB = 128

_VIRTIO_ID_NET = 1
_SOCKET_PATH_LIMIT = 107  # sun_path without its NUL

# Since then UML's floating-point state is as large as the CPU's; before, see exec_uml.
_FIRST_VERSION_WITH_FULL_STATE = (6, 13)
_NO_AVX = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW"


class UmlGuest(LinuxGuest):
    """A guest with one NIC for each of `sockets`, eth0 first.

    `modules` are loaded besides virtio_net (`ipv6`), `files` are put into the guest's root by path.
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
        super().__init__(files, boot_timeout)
        self._sockets = [_checked_socket(path) for path in sockets]
        self._memory_mib = mem
        self._kit = kit or obtain_uml()
        self._modules = ("virtio_net", *modules)

    @property
    def label(self) -> str:
        return f"User-Mode Linux {self._kit.version_text()}"

    def _parts(self) -> tuple[Path, list[Path]]:
        return self._kit.busybox, module_closure(self._kit.modules_folder, self._modules)

    def _launch(
        self, folder: Path, initrd: Path, console: socket.socket, log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._launcher(), *self._kernel_arguments(folder, initrd, console.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[console.fileno()],
            env={**os.environ, "TMPDIR": self._memory_folder()},
            start_new_session=True,
        )

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

    def _kernel_arguments(self, folder: Path, initrd: Path, console_fd: int) -> list[str]:
        arguments = [
            f"mem={self._memory_mib}M",
            f"initrd={initrd}",
            f"uml_dir={folder}",
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

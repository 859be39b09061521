"""UmlGuest: a User-Mode Linux on NIC sockets of vnic, booted in about 1.5 s without root.

The kernel connects to each NIC's vhost-user socket while it boots, so the NICs must listen before `boot`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from vnic.children import with_us
from vnic.lab.guest import exec_uml
from vnic.lab.guest.errors import BootFailed, GuestError
from vnic.lab.guest.initrd import OVER_ROOT, module_closure
from vnic.lab.guest.kit import UmlKit, obtain_uml
from vnic.lab.guest.linux import (
    BOOT_TIMEOUT,
    LOG_TAIL,
    TERMINATE_TIMEOUT,
    LinuxGuest,
)
from vnic.lab.guest.memory_folder import memory_folder

# threads-max follows the memory, and boot forks a helper for each device: with 64 MiB the first fork of /init may fail.
DEFAULT_MEMORY_MIB = 128

_VIRTIO_ID_NET = 1
_SOCKET_PATH_LIMIT = 107  # sun_path without its NUL

# Since then UML's floating-point state is as large as the CPU's; before, see exec_uml.
_FIRST_VERSION_WITH_FULL_STATE = (6, 13)
_NO_AVX = (
    # The last one is a choice between copies that glibc makes before it takes AVX away.
    "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load",
    "OPENSSL_ia32cap=~0x1000000000000000:~0x20",  # OPENSSL_ia32cap(3): AVX, AVX2
)


class UmlGuest(LinuxGuest):
    """A guest with one NIC for each of `sockets`, eth0 first.

    `modules` are loaded besides virtio_net (`ipv6`), `files` are put into the guest's root by path. With `shell`,
    `start_shell` gives a person one on this process's stdin and stdout.

    With `root`, a folder of this machine or its "/", the guest has the files and programs that are there, as far as
    this user may read them; what it writes stays in its memory, and /dev, /proc, /run, /sys and /tmp are its own.
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
        shell: bool = False,
        root: str | Path | None = None,
    ) -> None:
        if root is not None:
            files = {f"{OVER_ROOT}/{path.lstrip('/')}": content for path, content in (files or {}).items()}
            modules = ("overlay", *modules)
        super().__init__(files, boot_timeout)
        self._root = None if root is None else _checked_root(root)
        self._shell = shell
        self._sockets = [_checked_socket(path) for path in sockets]
        self._memory_mib = mem
        self._kit = kit or obtain_uml()
        self._modules = ("virtio_net", *modules)

    @property
    def label(self) -> str:
        return f"User-Mode Linux {self._kit.version_text()}"

    def boot(self, timeout: float | None = None) -> None:
        """BootFailed also where a NIC did not answer: the kernel asks once, and boots without it."""
        for path in self._sockets:
            if not Path(path).is_socket():
                raise BootFailed(f"no NIC listens on {path}: start `vnic run` first")
        super().boot(timeout)
        found = self.run("ls /sys/class/net").split()
        for index, path in enumerate(self._sockets):
            if f"eth{index}" not in found:
                raise BootFailed(
                    f"the NIC on {path} did not answer, or has a guest already\n{self.log()[-LOG_TAIL:]}"
                )

    def reboot(self, timeout: float | None = None) -> None:
        """As LinuxGuest's. UML reboots by executing itself, with its interrupts still armed as signals: one that
        comes before the new image has its handlers is the guest's end, and then it is switched on again."""
        try:
            super().reboot(timeout)
        except BootFailed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._booted_process().wait(TERMINATE_TIMEOUT)
            if self.running:
                raise
            self.close()
            self._process = None
            self.boot(timeout)

    def start_shell(self) -> None:
        """Give a person the shell; the guest ends when it does."""
        self.run("start_shell")

    def _parts(self) -> tuple[Path, list[Path]]:
        return self._kit.busybox, module_closure(self._kit.modules_folder, self._modules)

    def _launch(
        self, folder: Path, initrd: Path, console: socket.socket, log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        arguments = self._kernel_arguments(folder, initrd, console.fileno())
        with contextlib.ExitStack() as passed:
            fds = [console.fileno()]
            if self._shell:
                fds += [os.dup(fd) for fd in (0, 1)]
                for fd in fds[1:]:
                    passed.callback(os.close, fd)
                arguments += [f"con1=fd:{fds[1]},fd:{fds[2]}", "VNIC_SHELL=tty1"]
            return subprocess.Popen(
                with_us([*self._launcher(), *arguments], "TERM"),  # on which it takes its helpers with it
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=fds,
                start_new_session=True,
                env={**os.environ, "TMPDIR": self._memory_folder()},
                cwd=self._kit.libraries,
            )

    def _memory_folder(self) -> str:
        folder = memory_folder(self._memory_mib << 20)
        if folder is None:
            raise GuestError("there is no tmpfs for the guest's memory: mount one on /dev/shm")
        return folder

    def _launcher(self) -> list[str]:
        if self._kit.version >= _FIRST_VERSION_WITH_FULL_STATE:
            return self._kit.command
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
            arguments += _NO_AVX
        if self._root is not None:
            arguments += [f"hostfs={self._root}", "VNIC_ROOT=1"]
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


def _checked_root(path: str | Path) -> str:
    """As the kernel takes it: without a final slash, and without what ends the option (`hostfs=FOLDER,FLAGS`)."""
    text = os.path.abspath(path)
    if "," in text or " " in text or '"' in text:
        raise GuestError(
            f"the kernel cannot take the root {text!r}: it holds a comma, a space or a quotation mark"
        )
    if not Path(text).is_dir():
        raise GuestError(f"the root {text} is not a folder")
    return text

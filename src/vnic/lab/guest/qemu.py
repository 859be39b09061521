"""QemuGuest: a Debian kernel in an unmodified QEMU on vnic's sockets, booted in a few seconds without root or KVM.

QEMU connects to each NIC's socket when it starts, so the NICs must listen before `boot`.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vnic.children import with_us
from vnic.lab.guest.errors import GuestError
from vnic.lab.guest.initrd import module_closure
from vnic.lab.guest.linux import LinuxGuest
from vnic.lab.guest.qemu_kit import QemuKit, obtain_qemu
from vnic.lab.guest.qemu_monitor import QemuMonitor
from vnic.lab.guest.qemu_nic import QemuNic, vfio_user

# Emulated, on a busy machine; 4 s on a quiet one.
BOOT_TIMEOUT = 180.0
DEFAULT_MEMORY_MIB = 192

# Everything is emulated, also where KVM is: what is measured or tested then means the same on every machine. The
# plainest CPU boots fastest, for the kernel patches in the least alternatives.
_CPU = ("-accel", "tcg", "-cpu", "qemu64")
_KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1 rdinit=/init VNIC_TTY=ttyS1"
_UNPLUG_TIMEOUT = 60.0


class QemuGuest(LinuxGuest):
    """A guest with one NIC for each of `nics`, eth0 first; a path is short for `vfio_user(path)`.

    Without `share_memory` vnic has to ask QEMU for each byte. `tools` puts ethtool and lspci into it; `modules` are
    loaded besides virtio_net and e1000 (`8021q`, or what `drivers.modules_of` says), `files` are put into its root by
    path, `options` of QEMU come before those of the NICs.
    """

    def __init__(
        self,
        nics: Sequence[QemuNic | str | Path] = (),
        mem: int = DEFAULT_MEMORY_MIB,
        *,
        kit: QemuKit | None = None,
        machine: str = "pc",
        share_memory: bool = True,
        tools: bool = False,
        modules: Sequence[str] = (),
        files: Mapping[str, bytes] | None = None,
        options: Sequence[str] = (),
        boot_timeout: float = BOOT_TIMEOUT,
    ) -> None:
        self._kit = kit or obtain_qemu()
        super().__init__({**(self._kit.tools() if tools else {}), **(files or {})}, boot_timeout)
        self._nics = [_nic(nic).named(f"nic{index}") for index, nic in enumerate(nics)]
        self._memory_mib = mem
        self._machine = machine
        self._share_memory = share_memory
        self._modules = tuple(dict.fromkeys(("virtio_net", "e1000", *modules)))
        self._options = options
        self._monitor: QemuMonitor | None = None

    @property
    def label(self) -> str:
        return self._kit.version_text()

    # -- QEMU's own monitor -------------------------------------------------------------------------------------

    @property
    def monitor(self) -> QemuMonitor:
        """QEMU's QMP."""
        if self._monitor is None:
            raise GuestError("the guest is not running")
        return self._monitor

    def qmp(self, command: str, **arguments: object) -> Any:
        """Run a QMP command of QEMU."""
        return self.monitor.execute(command, **arguments)

    def device_add(self, nic: QemuNic, name: str) -> None:
        """Plug a NIC in; the guest takes a moment to find it."""
        nic = nic.named(name)
        if nic.netdev is not None:
            raise GuestError("only NICs without a netdev of QEMU can be plugged in")
        self.qmp("device_add", **nic.device)

    def device_del(self, name: str) -> None:
        """Pull a NIC out, as the guest lets it go; returns when QEMU has freed it."""
        self.qmp("device_del", id=name)
        self.monitor.wait_event("DEVICE_DELETED", _UNPLUG_TIMEOUT, device=name)

    def system_reset(self, timeout: float | None = None) -> None:
        """The reset button; returns when the guest takes commands again."""
        self._booted_console().forget()
        self.qmp("system_reset")
        self._wait_ready(timeout)

    # -- LinuxGuest ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        super().close()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def _parts(self) -> tuple[Path, list[Path]]:
        return self._kit.busybox, module_closure(self._kit.modules_folder, self._modules)

    def _launch(
        self, folder: Path, initrd: Path, console: socket.socket, log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        host_end, qemu_end = socket.socketpair()
        self._monitor = QemuMonitor(host_end)
        with qemu_end:
            return subprocess.Popen(
                with_us(self._command(initrd, console.fileno(), qemu_end.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[console.fileno(), qemu_end.fileno()],
                start_new_session=True,
            )

    def _command(self, initrd: Path, console_fd: int, monitor_fd: int) -> list[str]:
        size = f"{self._memory_mib}M"
        command = [
            *self._kit.command,
            *_CPU,
            "-m",
            size,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]
        if self._share_memory:  # so that vnic reaches the guest's rings and packets itself
            command += ["-object", f"memory-backend-memfd,id=mem,size={size},share=on"]
            command += ["-machine", f"{self._machine},memory-backend=mem"]
        else:
            command += ["-machine", self._machine]
        command += ["-kernel", str(self._kit.kernel), "-initrd", str(initrd), "-append", _KERNEL_ARGUMENTS]
        command += ["-serial", "stdio"]  # the kernel's log; commands have a line of their own
        command += ["-chardev", f"socket,id=console,fd={console_fd}", "-serial", "chardev:console"]
        command += ["-chardev", f"socket,id=qmp,fd={monitor_fd}", "-qmp", "chardev:qmp"]
        command += self._options
        for nic in self._nics:
            command += nic.options()
        return command


def _nic(nic: QemuNic | str | Path) -> QemuNic:
    return nic if isinstance(nic, QemuNic) else vfio_user(nic)

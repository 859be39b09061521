"""Makes a node's guest out of its plan: User-Mode Linux, the built-in QEMU guest, or a QEMU with the user's image.

`holder` calls it, in the guest's own process.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from vnic.children import check_executable, with_us
from vnic.lab.file.plan import Guest, GuestNic
from vnic.lab.guest import qemu, qemu_kit
from vnic.lab.guest.drivers import modules_of
from vnic.lab.guest.errors import BootFailed, GuestError
from vnic.lab.guest.linux import TERMINATE_TIMEOUT, LinuxGuest
from vnic.lab.guest.qemu_monitor import QemuMonitor
from vnic.lab.guest.qemu_nic import QemuNic, vfio_user, vhost_user
from vnic.lab.guest.uml import DEFAULT_MEMORY_MIB, UmlGuest
from vnic.lab.live.place import Place

FIRST_WITH_MS: Final = (9, 2)
"""The first QEMU that has `reconnect-ms`; later ones have no `reconnect`."""
DEFAULT_IMAGE_MEMORY_MIB: Final = 512

_SHELL = """\
export PS1={prompt}
start-stop-daemon -S -b -p /none -x /bin/sh -- \
  -c 'while :; do setsid sh -c "exec sh -i <>{terminal} >&0 2>&1"; done'
"""
"""A shell for persons, on a terminal of its own; another one comes when it ends."""


class Held(Protocol):
    """A guest that runs, as its holder needs it."""

    @property
    def label(self) -> str: ...

    @property
    def pid(self) -> int: ...

    @property
    def shell(self) -> LinuxGuest | None:
        """What runs commands; None in a guest of the user's."""

    def boot(self) -> int:
        """Start it; the descriptor of its console, to read and to write."""

    def close(self) -> None:
        """End it, whatever it does."""


def make(guest: Guest, place: Place) -> Held:
    if guest.kind == "uml":
        return _Uml(guest)
    if guest.keys.image is None and guest.keys.kernel is None:
        return _Qemu(guest, place)
    return _Image(guest)


class _Shell:
    """What is the same of the two guests with a shell of ours."""

    shell: UmlGuest | qemu.QemuGuest

    @property
    def label(self) -> str:
        return self.shell.label

    @property
    def pid(self) -> int:
        return self.shell.pid

    def close(self) -> None:
        self.shell.close()


class _Uml(_Shell):
    """A UML guest. Its second console is a socket that it gets as this process's stdin and stdout: for a terminal UML
    would start a helper in a session of its own (winch_thread), which outlives a guest that is killed."""

    def __init__(self, guest: Guest) -> None:
        self._plan = guest
        memory = int(guest.keys.memory or DEFAULT_MEMORY_MIB)
        sockets = [nic.socket for nic in guest.nics]
        modules = ["ipv6", *(guest.keys.modules or ())]
        self.shell = UmlGuest(sockets, memory, modules=modules, shell=True, root=guest.keys.root)

    def boot(self) -> int:
        ours, guests = socket.socketpair()
        with guests:
            os.dup2(guests.fileno(), 0)
            os.dup2(guests.fileno(), 1)
        self.shell.boot()
        self.shell.run(f"hostname {shlex.quote(self._plan.name)}")
        self.shell.run(rename(self._plan.nics))
        self.shell.run(_SHELL.format(prompt=shlex.quote(f"{self._plan.name}# "), terminal="/dev/tty1"))
        return ours.detach()


def rename(nics: Sequence[GuestNic]) -> str:
    """The script that gives a guest's interfaces their names, by way of others that none has, and their addresses."""
    lines = ["set -e"]
    lines += [f"ip link set eth{at} down; ip link set eth{at} name vnic{at}" for at in range(len(nics))]
    for at, nic in enumerate(nics):
        name = shlex.quote(nic.interface)
        lines.append(f"ip link set vnic{at} name {name}; ip link set {name} up")
        lines += [f"ip addr add {shlex.quote(address)} dev {name}" for address in nic.addresses]
    return "\n".join(lines)


def _nics(guest: Guest, version: tuple[int, ...]) -> list[QemuNic]:
    """As options of a QEMU of that version, which comes back when a vhost-user socket was closed: that is the cable."""
    again = "reconnect-ms" if version >= FIRST_WITH_MS else "reconnect"
    nics = []
    for nic in guest.nics:
        if nic.model == "virtio-net":
            found = vhost_user(nic.socket, mac=nic.mac)
            found = replace(
                found, chardev={**(found.chardev or {}), again: "100" if again.endswith("ms") else "1"}
            )
        else:
            found = vfio_user(nic.socket)
        nics.append(found)
    return nics


class _Qemu(_Shell):
    """The built-in QEMU guest. Its shell is on a third serial line."""

    def __init__(self, guest: Guest, place: Place) -> None:
        self._plan = guest
        self._terminal = place.terminal(guest.name)
        memory = int(guest.keys.memory or qemu.DEFAULT_MEMORY_MIB)
        path = str(self._terminal).replace(",", ",,")
        options = ["-chardev", f"socket,id=shell,path={path},server=on,wait=off", "-serial", "chardev:shell"]
        options += guest.keys.arguments or []
        kit = qemu_kit.obtain_qemu()
        nics = _nics(guest, kit.qemu_version)
        modules = modules_of(nic.model for nic in guest.nics)
        self.shell = qemu.QemuGuest(nics, memory, kit=kit, modules=modules, options=options)

    def boot(self) -> int:
        self.shell.boot()
        self.shell.run(rename(self._plan.nics))
        terminal = socket.socket(socket.AF_UNIX)
        terminal.connect(str(self._terminal))
        self.shell.run(_SHELL.format(prompt=shlex.quote(f"{self._plan.name}# "), terminal="/dev/ttyS2"))
        return terminal.detach()


class _Image:
    """A QEMU that boots the user's image or kernel; its console is the first serial line."""

    shell = None

    def __init__(self, guest: Guest) -> None:
        self._plan = guest
        self._process: subprocess.Popen[bytes] | None = None
        self._program = (guest.keys.program,) if guest.keys.program else qemu_kit.obtain_qemu().command

    @property
    def label(self) -> str:
        return f"{os.path.basename(self._program[0])}, {self._plan.keys.image or self._plan.keys.kernel}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise GuestError("the guest was not booted")
        return self._process.pid

    def boot(self) -> int:
        """Returns when QEMU has its devices: what is in the image boots after that."""
        for path in (self._plan.keys.image, self._plan.keys.kernel, self._plan.keys.initrd):
            if path is not None and not Path(path).exists():
                raise BootFailed(f"{path} does not exist")
        check_executable(self._program[0])
        console, console_end = socket.socketpair()
        ours, monitor_end = socket.socketpair()
        with console_end, monitor_end:
            self._process = subprocess.Popen(
                with_us(self._command(console_end.fileno(), monitor_end.fileno()), "TERM"),
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[console_end.fileno(), monitor_end.fileno()],
                start_new_session=True,
            )
        with contextlib.closing(QemuMonitor(ours)) as monitor:
            try:
                monitor.execute("query-status")
            except GuestError as error:
                raise BootFailed(f"QEMU did not start: {error}") from error
        return console.detach()

    def _command(self, console: int, monitor: int) -> list[str]:
        keys = self._plan.keys
        size = f"{keys.memory or DEFAULT_IMAGE_MEMORY_MIB}M"
        command = [*self._program, "-nodefaults", "-display", "none", "-m", size]
        command += ["-object", f"memory-backend-memfd,id=vnic-memory,size={size},share=on"]
        command += ["-machine", "pc,accel=kvm:tcg,memory-backend=vnic-memory"]
        command += ["-chardev", f"socket,id=vnic-console,fd={console}", "-serial", "chardev:vnic-console"]
        command += ["-chardev", f"socket,id=vnic-qmp,fd={monitor}", "-qmp", "chardev:vnic-qmp"]
        if keys.image is not None:
            command += ["-drive", f"file={keys.image.replace(',', ',,')},if=virtio"]
        for option, value in (("-kernel", keys.kernel), ("-initrd", keys.initrd), ("-append", keys.append)):
            command += [option, value] if value is not None else []
        for index, nic in enumerate(_nics(self._plan, qemu_kit.qemu_version(self._program))):
            command += nic.named(f"nic{index}").options()
        return [*command, *(keys.arguments or [])]

    def close(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(TERMINATE_TIMEOUT)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

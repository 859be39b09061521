"""Firmware and boot loaders on a NIC of vnic, for `test_firmware.py`: a serial line, and a host with DHCP and TFTP.

The host is a second QEMU without a machine: its user-mode network, joined to vnic's stream netdev by a hub.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import require
from tests.guests.boot_image import FILE
from tests.guests.lab import Vnic, vnic_run
from tests.guests.qemu_lab import pci_nic

from vnic.children import with_us
from vnic.lab.guest import qemu_kit
from vnic.lab.guest.qemu_nic import vfio_user

SHA256 = hashlib.sha256(FILE).hexdigest()
TIMEOUT_S = 240.0
IPXE = Path("/usr/lib/ipxe/qemu")
OVMF = Path("/usr/share/ovmf/OVMF.fd")
U_BOOT = Path("/usr/lib/u-boot/qemu-x86/u-boot.rom")
GRUB_MODULES = ("net", "tftp", "echo", "serial", "terminal", "hashsum", "gcry_sha256", "test")
GRUB_SCRIPT = """\
serial --unit=0 --speed=115200
terminal_output serial
echo FETCHING
sha256sum (tftp,10.0.2.2)/file
sha256sum (tftp,10.0.2.2)/file
echo DONE
"""
"""Twice: GRUB asks for no block again, and the host's TFTP repeats none, so that one lost frame ends the first one."""
_MEMORY = "256M"


def grub(folder: Path, kind: str, card: str) -> None:
    """GRUB as the file `boot`: it prints the checksum of the host's file."""
    require(shutil.which("grub-mkimage"), "grub-mkimage (package grub-common)")
    modules = Path("/usr/lib/grub", kind.removesuffix("-pxe"))
    require(modules.is_dir(), f"{modules} (packages grub-efi-amd64-bin and grub-pc-bin)")
    script = folder / "grub.cfg"
    script.write_text(GRUB_SCRIPT)
    command = ["grub-mkimage", "-O", kind, "-c", str(script), "-p", "/", "-o", str(folder / "boot")]
    subprocess.run([*command, card, *GRUB_MODULES], check=True, stdin=subprocess.DEVNULL)


class Serial:
    """The serial line: what the firmware printed, and what is typed."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self.text = ""

    def wait(self, wanted: str) -> None:
        """Until it has been printed."""
        deadline = time.monotonic() + TIMEOUT_S
        while wanted not in self.text:
            assert self._read(deadline), f"{wanted!r} was not printed: {self.text[-2000:]}"

    def _read(self, deadline: float) -> bool:
        """Read what comes next; False: nothing came by then."""
        left = deadline - time.monotonic()
        readable = left > 0 and select.select([self._line], [], [], left)[0]
        data = self._line.recv(1 << 16) if readable else b""
        self.text += data.decode(errors="replace")
        return bool(data)

    def wait_after(self, first: str, wanted: str) -> None:
        """Until `wanted` has been printed behind `first`."""
        deadline = time.monotonic() + TIMEOUT_S
        while wanted not in self.text.partition(first)[2]:
            assert time.monotonic() < deadline, f"{wanted!r} was not printed: {self.text[-2000:]}"
            self._read(deadline)

    def type(self, text: str) -> None:
        self._line.sendall(text.encode())


@dataclass(frozen=True)
class Machine:
    """A machine that boots over the NIC `nic0` of `running`."""

    running: Vnic
    serial: Serial

    def fetch_with_a_pull(self) -> None:
        """The cable is pulled and put back when the file is asked for; it is whole in the end.

        Each boot loader fetches it a second time where the first try failed: the host's TFTP server repeats no block,
        so that a lost one ends a transfer.
        """
        self.serial.wait("FETCHING")
        self.running.qmp.set_link("nic0", False)
        self.running.qmp.set_link("nic0", True)
        self.serial.wait("DONE")


@contextlib.contextmanager
def machine(
    folder: Path, driver: str, options: Sequence[str], *, kind: str = "pc", **nic: object
) -> Iterator[Machine]:
    """Boot a machine; `folder` is what the host's TFTP serves, its file `boot` what DHCP names."""
    kit = qemu_kit.find_qemu()
    require(kit, "the QEMU guest kit (`vnic demo --guest qemu` downloads it)")
    assert kit is not None
    (folder / "file").write_bytes(FILE)
    netdev = ["-netdev", "stream,id=net0,server=on,addr.type=unix,addr.path=net0.sock"]
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(vnic_run("-name", "firmware", *netdev, *pci_nic("nic0", driver)))
        host = [
            *("-M", "none", "-display", "none", "-nodefaults"),
            *(
                "-netdev",
                f"user,id=user0,tftp={folder},bootfile=boot",
                "-netdev",
                "hubport,id=end0,hubid=0,netdev=user0",
            ),
            *("-netdev", f"stream,id=wire0,server=off,addr.type=unix,addr.path={running.socket('net0')}"),
            *("-netdev", "hubport,id=end1,hubid=0,netdev=wire0"),
        ]
        stack.enter_context(_process([*kit.command, *host]))
        while running.qmp.holds("nic0"):
            running.qmp.wait_event("LINK_CHANGED", name="nic0")
        near, far = socket.socketpair()
        stack.enter_context(near)
        shared = ["-object", f"memory-backend-memfd,id=mem,size={_MEMORY},share=on"]
        command = [
            *kit.command,
            *(
                "-accel",
                "tcg",
                "-cpu",
                "qemu64",
                "-m",
                _MEMORY,
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
            ),
            *shared,
            *("-machine", f"{kind},graphics=off,memory-backend=mem"),
            *("-chardev", f"socket,id=serial,fd={far.fileno()}", "-serial", "chardev:serial"),
            *options,
            *vfio_user(running.socket("nic0"), **nic).options(),
        ]
        with far:
            stack.enter_context(_process(command, far.fileno()))
        yield Machine(running, Serial(near))


@contextlib.contextmanager
def _process(command: Sequence[str], *fds: int) -> Iterator[None]:
    started = subprocess.Popen(
        with_us(command), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=fds
    )
    try:
        yield
    finally:
        started.terminate()
        try:
            started.wait(TIMEOUT_S)
        finally:
            started.kill()
            started.wait()

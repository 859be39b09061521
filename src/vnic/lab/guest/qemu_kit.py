"""Finds the parts of a QEMU guest: a QEMU that speaks vfio-user, a Debian kernel with its modules, and some tools.

`obtain_qemu` takes this machine's own QEMU where it is new enough, then the cache folder, then downloads. Of the
packages, only what a guest needs is kept: some 100 MB.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vnic.lab.guest import cache
from vnic.lab.guest.apt import Progress
from vnic.lab.guest.debian import (
    LOADER,
    Debian,
    copy_files,
    find_file,
    libraries,
    require_means,
)
from vnic.lab.guest.errors import GuestUnavailable
from vnic.lab.guest.initrd import module_closure

SUITES = ("trixie", "trixie-backports")
"""QEMU that speaks vfio-user is in the backports."""
QEMU_PACKAGES = ("qemu-system-x86", "seabios", "ipxe-qemu")
TOOL_PACKAGES = ("busybox-static", "ethtool", "pciutils")
KERNEL_PACKAGE = "linux-image-amd64"
"""A metapackage; the cloud kernel, which is smaller, lacks most NICs."""

REMEDY = "vnic demo --guest uml"
"""Where the QEMU guest cannot be had: it always takes its kernel from the cache, so no installed QEMU would help."""

FIRST_VERSION = (10, 1)
"""Of QEMU: that with vfio-user-pci."""

PROGRAM = "qemu-system-x86_64"
TOOLS = ("ethtool", "lspci")
NIC_MODULES = (
    *("virtio_net", "e1000", "e1000e", "igb", "vmxnet3", "8139cp", "8139too"),
    *("pcnet32", "e100", "tulip", "ne2k_pci"),
)
"""The drivers of the NICs that QEMU and vnic have (`drivers.py`)."""
MODULES = (
    *NIC_MODULES,
    *("8021q", "pktgen"),
    *("tun", "vhost_net", "9p", "9pnet_virtio"),
)
"""Besides them: what the tests load, among them what a guest needs in which vnic itself runs."""
FIRMWARE = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "efi-virtio.rom", "efi-e1000.rom")
"""What QEMU loads for a kernel given on its command line, and for the NICs that it emulates itself."""

# A change of what they hold needs a new name: entries of another vnic are then left alone.
_QEMU_ENTRY = "qemu-1"
_LINUX_ENTRY = "linux-3"


@dataclass(frozen=True, slots=True)
class QemuKit:
    """The parts of a QEMU guest, as files."""

    command: tuple[str, ...]
    """What starts QEMU, before its options."""
    qemu_version: tuple[int, ...]
    kernel: Path
    kernel_version: str
    modules_folder: Path
    busybox: Path
    tools_folder: Path

    def tools(self) -> dict[str, bytes]:
        """ethtool and lspci with their libraries, by their paths in a guest."""
        places = {LOADER: "lib64", **dict.fromkeys(TOOLS, "usr/bin")}
        return {
            f"/{places.get(path.name, 'usr/lib/x86_64-linux-gnu')}/{path.name}": path.read_bytes()
            for path in sorted(self.tools_folder.iterdir())
        }

    def version_text(self) -> str:
        return f"QEMU {'.'.join(map(str, self.qemu_version))}, Linux {self.kernel_version}"


# -- finding --------------------------------------------------------------------------------------------------------


def qemu_version(command: Sequence[str]) -> tuple[int, ...]:
    """What this QEMU says of itself; empty if it does not run."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.match(r"QEMU emulator version (\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else ()


def installed_qemu() -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """The command and the version of this machine's own QEMU, if it speaks vfio-user."""
    path = shutil.which(PROGRAM)
    version = qemu_version([path]) if path else ()
    return ((path,), version) if path and version >= FIRST_VERSION else None


def cached_qemu() -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """The same of the one that was downloaded before."""
    folder = cache.entry(_QEMU_ENTRY)
    if folder is None:
        return None
    lib = folder / "lib"
    loader = (str(lib / LOADER), "--library-path", str(lib))
    command = (*loader, str(folder / PROGRAM), "-L", str(folder / "firmware"))
    version = qemu_version(command)
    return (command, version) if version >= FIRST_VERSION else None


def find_qemu() -> QemuKit | None:
    """A kit that is here already."""
    qemu = installed_qemu() or cached_qemu()
    linux = cache.entry(_LINUX_ENTRY)
    if qemu is None or linux is None:
        return None
    kernels = list(linux.glob("vmlinuz-*"))
    if len(kernels) != 1:
        return None
    kernel_version = kernels[0].name.removeprefix("vmlinuz-")
    command, version = qemu
    return QemuKit(
        command, version, kernels[0], kernel_version, linux / "modules", linux / "busybox", linux / "tools"
    )


# -- downloading ----------------------------------------------------------------------------------------------------


def download_kit(progress: Progress | None = None) -> QemuKit:
    """Download what is not here into the cache; no root is needed. Some 160 MB, if nothing is here."""
    require_means("a machine with Debian's apt and dpkg")
    try:
        with Debian(SUITES, progress) as trixie:
            no_qemu = (installed_qemu() or cached_qemu()) is None
            no_linux = cache.entry(_LINUX_ENTRY) is None
            wanted = QEMU_PACKAGES * no_qemu + TOOL_PACKAGES * no_linux
            root = trixie.unpack(trixie.fetch(wanted, (0.1, 0.4)))
            if no_qemu:
                cache.store(_QEMU_ENTRY, lambda folder: _take_qemu(root, folder))
            if no_linux:
                kernel = trixie.unpack(trixie.fetch_what_it_means(KERNEL_PACKAGE, (0.4, 0.95)))
                cache.store(_LINUX_ENTRY, lambda folder: _take_linux(root, kernel, folder))
    except OSError as error:
        raise cache.unwritable(error) from error
    kit = find_qemu()
    if kit is None:
        raise GuestUnavailable("the packages of Debian hold no QEMU guest that runs here", REMEDY)
    return kit


def obtain_qemu(progress: Progress | None = None) -> QemuKit:
    """A kit that is here already, or else a downloaded one; GuestUnavailable says why there is none."""
    return find_qemu() or download_kit(progress)


def _take_qemu(root: Path, folder: Path) -> None:
    """Of packages unpacked at `root`: QEMU, its libraries, and the firmware that it loads."""
    program = find_file(root, f"*bin/{PROGRAM}")
    shutil.copy2(program, folder)
    copy_files(libraries(root, [program]), folder / "lib")
    copy_files((find_file(root, name) for name in FIRMWARE), folder / "firmware")


def _take_linux(root: Path, kernel: Path, folder: Path) -> None:
    """Of the kernel unpacked at `kernel` and packages at `root`: the kernel, modules, busybox and tools."""
    shutil.copy2(find_file(kernel, "vmlinuz-*"), folder)
    copy_files(module_closure(kernel, MODULES), folder / "modules")
    shutil.copy2(find_file(root, "*bin/busybox"), folder)
    tools = [find_file(root, f"*bin/{name}") for name in TOOLS]
    copy_files([*tools, *libraries(root, tools)], folder / "tools")

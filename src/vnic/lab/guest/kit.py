"""Finds the parts of a User-Mode Linux guest: a kernel, the modules of virtio-net, and a static busybox.

`obtain_uml` looks for what is installed, then in the cache folder, then downloads the packages into the cache: those of
this machine's own sources, or, where they have none, as Ubuntu's, Debian's with the C library that they need.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vnic.lab.guest import cache
from vnic.lab.guest.apt import (
    Progress,
    apt_available,
    download,
    unpack,
)
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

UML_PACKAGES = ("user-mode-linux", "busybox-static")
NEWER_SUITE = "forky"
MODULES = (
    "virtio_net",
    "ipv6",
    "overlay",
    *("8021q", "bonding", "bridge", "dummy", "macvlan", "veth", "vrf", "vxlan"),
)
"""Those that are kept of a newer kernel."""

_CACHE_ENTRY = "uml"
_NEWER_ENTRY = f"uml-{NEWER_SUITE}-2"
_PT_INTERP = 3
_INTERPRETER = f"/lib64/{LOADER}".encode()


def remedy() -> str:
    """What brings a UML guest to this very system."""
    try:
        system = platform.freedesktop_os_release()["ID"]
    except OSError:
        system = ""
    sudo = "" if os.geteuid() == 0 else "sudo "
    if not apt_available():
        return "a Debian or Ubuntu system, or a container of one: guests are made of their packages"
    if system == "debian":
        return f"{sudo}apt-get update && {sudo}apt-get install {' '.join(UML_PACKAGES)}"
    return f"{sudo}apt-get update, with the network up, then try again"


@dataclass(frozen=True, slots=True)
class UmlKit:
    """The parts of a UML guest, as files."""

    kernel: Path
    version: tuple[int, ...]
    modules_folder: Path
    busybox: Path
    libraries: Path | None = None
    """The folder of the C library that the kernel is to run with, if that is not the machine's."""

    @property
    def command(self) -> list[str]:
        """The kernel as a command, which is to run in the folder `libraries`."""
        return command(self.kernel, self.libraries)

    def version_text(self) -> str:
        return ".".join(map(str, self.version))


def is_static_program(path: Path) -> bool:
    """Whether `path` is a 64-bit little-endian ELF program without an interpreter (elf(5))."""
    try:
        with path.open("rb") as file:
            header = file.read(64)
            if header[:6] != b"\x7fELF\x02\x01":
                return False
            offset = int.from_bytes(header[32:40], "little")
            size, count = (int.from_bytes(header[at : at + 2], "little") for at in (54, 56))
            file.seek(offset)
            table = file.read(size * count)
    except OSError:
        return False
    if not table or len(table) != size * count:
        return False
    return all(
        int.from_bytes(table[at : at + 4], "little") != _PT_INTERP for at in range(0, len(table), size)
    )


def command(kernel: Path, libraries: Path | None) -> list[str]:
    """The kernel with its own C library, of which the programs that start it have nothing. It finds its loader in the
    working folder, see `_take`."""
    if libraries is None:
        return [str(kernel)]
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(kernel)]


def kernel_version(kernel: Path, libraries: Path | None = None) -> tuple[int, ...]:
    """What `linux.uml --version` says, as numbers; empty if it does not run."""
    try:
        done = subprocess.run(
            [*command(kernel, libraries), "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
            cwd=libraries,
        )
        return tuple(int(part) for part in done.stdout.split("-")[0].strip().split("."))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ()


def find_busybox(folders: Sequence[Path]) -> Path | None:
    """The first static busybox in `folders`; the dynamic one of the package busybox is of no use in an initrd."""
    for folder in folders:
        if is_static_program(folder / "busybox"):
            return folder / "busybox"
    return None


def find_kit(root: Path, kernel: Path, busybox_folders: Sequence[Path]) -> UmlKit | None:
    """The kit whose packages are installed below `root`, if it is whole."""
    version = kernel_version(kernel)
    modules = root / "usr/lib/uml/modules" / ".".join(map(str, version))
    busybox = find_busybox(busybox_folders)
    if not version or busybox is None or not modules.is_dir():
        return None
    return UmlKit(kernel, version, modules, busybox)


def installed_kit() -> UmlKit | None:
    """The kit that this machine has by its own packages."""
    kernel = shutil.which("linux.uml")
    if kernel is None:
        return None
    folders = [Path("/bin"), Path("/usr/bin"), Path("/usr/sbin")]
    return find_kit(Path("/"), Path(kernel), folders)


def cached_kit() -> UmlKit | None:
    """The kit that was downloaded before."""
    folder = cache.entry(_CACHE_ENTRY)
    if folder is None:
        return None
    return find_kit(folder, folder / "usr/bin/linux.uml", [folder / "bin", folder / "usr/bin"])


def newer_kit() -> UmlKit | None:
    """The kit of a newer release with a C library of its own, if it was downloaded before."""
    folder = cache.entry(_NEWER_ENTRY)
    if folder is None:
        return None
    kernel, lib = folder / "linux.uml", folder / "lib"
    version = kernel_version(kernel, lib)
    return UmlKit(kernel, version, folder / "modules", folder / "busybox", lib) if version else None


def download_kit(progress: Progress | None = None) -> UmlKit:
    """Download the packages into the cache; no root is needed."""
    if not apt_available():
        raise GuestUnavailable(
            "linux.uml is not installed, and this machine has no apt-get to fetch it", remedy()
        )

    def fill(folder: Path) -> None:
        downloads = cache.scratch_folder(".packages-")
        try:
            unpack(download(UML_PACKAGES, downloads.path, progress), folder)
        finally:
            downloads.remove()

    try:
        cache.store(_CACHE_ENTRY, fill)
        kit = cached_kit()
    except GuestUnavailable:
        kit = None
    except OSError as error:
        raise cache.unwritable(error) from error
    return kit or download_newer_kit(progress)


def download_newer_kit(progress: Progress | None = None) -> UmlKit:
    """Download Debian's newer kernel with its C library into the cache, for whatever release this machine has."""
    require_means(remedy())
    try:
        with Debian([NEWER_SUITE], progress) as debian:
            root = debian.unpack(debian.fetch(UML_PACKAGES, (0.1, 1.0)))
            cache.store(_NEWER_ENTRY, lambda folder: _take(root, folder))
    except OSError as error:
        raise cache.unwritable(error) from error
    except GuestUnavailable as error:
        raise GuestUnavailable(error.what, remedy()) from None
    kit = newer_kit()
    if kit is None:
        raise GuestUnavailable(
            f"the packages {' and '.join(UML_PACKAGES)} hold no guest that runs here", remedy()
        )
    return kit


def _take(root: Path, folder: Path) -> None:
    """Of packages unpacked at `root`: the kernel, its modules, busybox, and the C library.

    The kernel executes itself when it starts and when it reboots, so it cannot be started by its loader, as other
    programs can. It finds the loader by the relative path that is written into it here, in its working folder.
    """
    kernel = find_file(root, "*bin/linux.uml")
    program = kernel.read_bytes()
    if program.count(_INTERPRETER + b"\0") != 1:
        raise GuestUnavailable(f"{kernel.name} of Debian's packages names no loader", remedy())
    (folder / kernel.name).write_bytes(
        program.replace(_INTERPRETER, LOADER.encode().ljust(len(_INTERPRETER), b"\0"))
    )
    (folder / kernel.name).chmod(0o755)
    copy_files(libraries(root, [kernel]), folder / "lib")
    modules = find_file(root, "modules/*/modules.builtin").parent
    listings = [modules / name for name in ("modules.builtin", "modules.builtin.modinfo")]
    copy_files([*module_closure(modules, MODULES), *listings], folder / "modules")
    shutil.copy2(find_file(root, "*bin/busybox"), folder)


def find_uml() -> UmlKit | None:
    """A kit that is here already."""
    return installed_kit() or cached_kit() or newer_kit()


def obtain_uml(progress: Progress | None = None) -> UmlKit:
    """A kit that is here already, or else a downloaded one; GuestUnavailable says why there is none."""
    return find_uml() or download_kit(progress)


def obtain_newer_uml(progress: Progress | None = None) -> UmlKit:
    """The newer release's kit; the tests take it beside the machine's own."""
    return newer_kit() or download_newer_kit(progress)

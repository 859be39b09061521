"""Finds the parts of a User-Mode Linux guest: a kernel, the modules of virtio-net, and a static busybox.

`obtain_uml` looks for what is installed, then in the cache folder, then downloads the Debian packages into the cache.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import cache
from .apt import Apt, Progress, apt_available, unpack
from .errors import GuestUnavailable

UML_PACKAGES = ("user-mode-linux", "busybox-static")
REMEDY = f"sudo apt-get install {' '.join(UML_PACKAGES)}"

_CACHE_ENTRY = "uml"
_PT_INTERP = 3


@dataclass(frozen=True, slots=True)
class UmlKit:
    """The parts of a UML guest, as files."""

    kernel: Path
    version: tuple[int, ...]
    modules_folder: Path
    busybox: Path

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


def kernel_version(kernel: Path) -> tuple[int, ...]:
    """What `linux.uml --version` says, as numbers; empty if it does not run."""
    try:
        done = subprocess.run(
            [kernel, "--version"], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL
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


def download_kit(progress: Progress | None = None) -> UmlKit:
    """Download the packages into the cache; no root is needed."""
    if not apt_available():
        raise GuestUnavailable(
            "linux.uml is not installed, and this machine has no apt-get to fetch it", REMEDY
        )

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="vnic-apt-") as downloads:
            unpack(_download(Path(downloads), progress), folder)

    try:
        cache.store(_CACHE_ENTRY, fill)
    except OSError as error:
        raise cache.unwritable(error) from error
    kit = cached_kit()
    if kit is None:
        raise GuestUnavailable(
            f"the packages {' and '.join(UML_PACKAGES)} hold no guest that runs here", REMEDY
        )
    return kit


def _download(folder: Path, progress: Progress | None) -> list[Path]:
    try:
        return Apt().download(UML_PACKAGES, folder, progress)
    except GuestUnavailable:
        # No package lists, as in a container image: fetch them into a private place.
        private = Apt.private("machine")
        private.update(progress)
        return private.download(UML_PACKAGES, folder, progress)


def find_uml() -> UmlKit | None:
    """A kit that is here already."""
    return installed_kit() or cached_kit()


def obtain_uml(progress: Progress | None = None) -> UmlKit:
    """A kit that is here already, or else a downloaded one; GuestUnavailable says why there is none."""
    return find_uml() or download_kit(progress)

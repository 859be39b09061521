"""Fetches what a QEMU guest needs as packages of Debian trixie, from the mirror that this machine uses already.

QEMU that speaks vfio-user is in trixie-backports. All of it is unpacked below the cache folder with its own C library,
so that nothing of it has to fit this machine's release.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .apt import Apt, Progress, apt_available, private_folder, unpack
from .cache import cache_folder
from .errors import GuestUnavailable

RELEASE = "trixie"
BACKPORTS = "trixie-backports"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
REMEDY = "vnic demo --guest uml"
"""Where the QEMU guest cannot be had: it always takes its kernel from the cache, so no installed QEMU would help."""

QEMU_PACKAGES = ("qemu-system-x86", "seabios", "ipxe-qemu")
TOOL_PACKAGES = ("busybox-static", "ethtool", "pciutils")
KERNEL_PACKAGE = "linux-image-amd64"
"""A metapackage; the cloud kernel, which is smaller, has no e1000."""

_SUITES = "bullseye|bookworm|trixie|forky|duke|sid|oldstable|stable|testing|unstable"
_INDEX = re.compile(rf"(.+)/dists/({_SUITES})(-updates|-backports)?/InRelease$")
_SOURCES = """\
Types: deb
URIs: {mirror}
Suites: {suites}
Components: main
Signed-By: {keyring}
"""


def find_mirror(index_files: Sequence[str]) -> str | None:
    """The mirror of Debian's archive that these index files of the machine's sources lie on.

    Others arrange their archives like Debian's; Debian's own is the one that holds most of Debian's suites.
    """
    found = Counter(match[1] for address in index_files if (match := _INDEX.match(address)))
    return found.most_common(1)[0][0] if found else None


def require_means() -> None:
    """GuestUnavailable, with the remedy, if the packages cannot be fetched or would not run here."""
    if platform.machine() != "x86_64":
        raise GuestUnavailable(
            f"QEMU guests are fetched for x86_64, not {platform.machine()}", "an x86_64 machine"
        )
    if not apt_available():
        raise GuestUnavailable(
            "a QEMU guest is made of Debian's packages, and this machine has no apt-get to fetch them",
            "a machine with Debian's apt and dpkg",
        )
    if not KEYRING.exists():
        raise GuestUnavailable(
            f"{KEYRING}, which Debian's packages are checked with, is missing",
            "sudo apt-get install debian-archive-keyring",
        )


class Trixie:
    """A private apt state for trixie and its backports; a context manager that removes it at the end."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._apt: Apt | None = None
        self._folder = Path()

    def __enter__(self) -> Trixie:
        cache_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = Path(tempfile.mkdtemp(prefix=".packages-", dir=cache_folder()))
        return self

    def __exit__(self, *_error: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(private_folder(self._folder.name), ignore_errors=True)

    def fetch(self, packages: Sequence[str], span: tuple[float, float]) -> list[Path]:
        """The .deb files of `packages` and of all that they need, from the backports where they have it.

        `span` is the part of the whole work that this is, as the progress tells it.
        """
        return self._lists().download_whole(packages, self._fresh(), BACKPORTS, self._part(span))

    def fetch_kernel(self, span: tuple[float, float]) -> list[Path]:
        """The .deb file of trixie's kernel alone: what it depends on is for installing it."""
        folder = self._fresh()
        (meta,) = self._lists().download([KERNEL_PACKAGE], folder)
        depends = _field(meta, "Depends")
        meta.unlink()
        found = re.match(r"[a-z0-9.+-]+", depends)
        if found is None:
            raise GuestUnavailable(f"{KERNEL_PACKAGE} of {RELEASE} names no kernel: {depends!r}", REMEDY)
        return self._lists().download([found[0]], folder, self._part(span))

    def unpack(self, archives: Sequence[Path]) -> Path:
        """A folder with their contents, which goes with the state; the archives themselves are removed."""
        root = self._fresh()
        unpack(archives, root)
        for archive in archives:
            archive.unlink()
        return root

    def _fresh(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))

    def _lists(self) -> Apt:
        """apt-get with fresh package lists."""
        if self._apt is None:
            mirror = find_mirror(Apt().index_files())
            if mirror is None:
                raise GuestUnavailable(
                    "this machine's package sources name no mirror of Debian",
                    "a source of Debian's in /etc/apt/sources.list.d",
                )
            suites = f"{RELEASE} {BACKPORTS}"
            sources = _SOURCES.format(mirror=mirror, suites=suites, keyring=KEYRING)
            self._apt = Apt.private(self._folder.name, sources, RELEASE)
            self._apt.update(self._part((0.0, 0.1)))
        return self._apt

    def _part(self, span: tuple[float, float]) -> Progress | None:
        if self._progress is None:
            return None
        tell, (start, end) = self._progress, span
        return lambda done, text: tell(start + done * (end - start), text)


def _field(archive: Path, name: str) -> str:
    """A field of a .deb file's control data."""
    command = ["dpkg-deb", "-f", str(archive), name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout.strip()

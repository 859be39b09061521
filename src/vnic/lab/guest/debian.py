"""Fetches packages of another release of Debian than this machine's, or of Debian for a machine that is not Debian's.

The kits call it. Packages are unpacked below the cache folder, never installed, with the C library that
they need, so that they do not depend on this machine's. All trust begins at the machine's own package sources: they
name Debian's mirror and bring Debian's keys, or bring the packages that tell both.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vnic.lab.guest import cache
from vnic.lab.guest.apt import (
    Apt,
    Progress,
    apt_available,
    download,
    unpack,
)
from vnic.lab.guest.cache import scratch_folder
from vnic.lab.guest.errors import GuestUnavailable
from vnic.scratch import ScratchFolder

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_KEYRING_PACKAGE = "debian-archive-keyring"
_DESCRIPTION_PACKAGE = "python-apt-common"
_DESCRIPTIONS = [f"usr/share/python-apt/templates/{name}" for name in ("Debian.info", "debian.info")]
"""What apt's graphical programs know of Debian: Ubuntu has it as well."""

LOADER = "ld-linux-x86-64.so.2"
REMEDY = "a source of Debian's in /etc/apt/sources.list.d"

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


def described_mirror(description: str) -> str | None:
    """Debian's own address in that description; without TLS, for packages are signed and certificates may lack."""
    found = re.search(r"^BaseURI: https?://(\S+?)/?$", description, re.M)
    return f"http://{found[1]}" if found else None


def require_means(remedy: str) -> None:
    """GuestUnavailable if the packages cannot be fetched or would not run here."""
    if platform.machine() != "x86_64":
        raise GuestUnavailable(
            f"guests are fetched for x86_64, not {platform.machine()}", "an x86_64 machine"
        )
    if not apt_available():
        raise GuestUnavailable(
            "guests are made of Debian's packages, and this machine has no apt-get to fetch them", remedy
        )


class Debian:
    """A private apt state for one release and its further suites; a context manager that removes it at the end."""

    def __init__(self, suites: Sequence[str], progress: Progress | None) -> None:
        """`suites`: the release, and then its backports, if packages are to be taken from them where they have them."""
        self._suites = suites
        self._progress = progress
        self._apt: Apt | None = None
        self._scratch: ScratchFolder | None = None

    def __enter__(self) -> Debian:
        self._scratch = scratch_folder(".packages-")
        return self

    def __exit__(self, *_error: object) -> None:
        if self._scratch is not None:
            self._scratch.remove()

    @property
    def _folder(self) -> Path:
        assert self._scratch is not None
        return self._scratch.path

    def fetch(self, packages: Sequence[str], span: tuple[float, float]) -> list[Path]:
        """The .deb files of `packages` and of all that they need, from the last of the suites that has it.

        `span` is the part of the whole work that this is, as the progress tells it.
        """
        return self._lists().download_whole(packages, self._fresh(), self._suites[-1], self._part(span))

    def fetch_what_it_means(self, metapackage: str, span: tuple[float, float]) -> list[Path]:
        """The .deb file of the package that a metapackage depends on, alone."""
        folder = self._fresh()
        (meta,) = self._lists().download([metapackage], folder)
        depends = _field(meta, "Depends")
        meta.unlink()
        found = re.match(r"[a-z0-9.+-]+", depends)
        if found is None:
            raise GuestUnavailable(
                f"{metapackage} of {self._suites[0]} names no package: {depends!r}", REMEDY
            )
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
            mirror = find_mirror(Apt().index_files()) or self._described_mirror()
            suites = " ".join(self._suites)
            sources = _SOURCES.format(mirror=mirror, suites=suites, keyring=self._keyring())
            self._apt = Apt.private(self._folder / "apt", sources, self._suites[0])
            self._apt.update(self._part((0.0, 0.1)))
        return self._apt

    def _described_mirror(self) -> str:
        description = self._file_of(_DESCRIPTION_PACKAGE, *_DESCRIPTIONS)
        mirror = described_mirror(description.read_text())
        if mirror is None:
            raise GuestUnavailable(f"{description.name} names no mirror of Debian", REMEDY)
        return mirror

    def _keyring(self) -> Path:
        """What Debian's packages are checked with."""
        return KEYRING if KEYRING.exists() else self._file_of(_KEYRING_PACKAGE, str(KEYRING).lstrip("/"))

    def _file_of(self, package: str, *paths: str) -> Path:
        """The first of these files that there is, of a package of the machine's own sources."""
        what = f"this machine's package sources name no mirror of Debian, and lack {package}"
        try:
            root = self.unpack(download([package], self._fresh()))
        except GuestUnavailable as error:
            raise GuestUnavailable(f"{what}: {error.what}", REMEDY) from None
        for path in paths:
            if (root / path).exists():
                return root / path
        raise GuestUnavailable(what, REMEDY)

    def _part(self, span: tuple[float, float]) -> Progress | None:
        if self._progress is None:
            return None
        tell, (start, end) = self._progress, span
        return lambda done, text: tell(start + done * (end - start), text)


def obtain_program(
    suite: str, package: str, entry: str, take: Callable[[Path, Path], None], progress: Progress | None
) -> Path:
    """The entry of the cache folder that `take(unpacked, folder)` makes of a package, fetched if it is not there.
    GuestUnavailable says why there is none."""
    found = cache.entry(entry)
    if found is not None:
        return found
    require_means(REMEDY)
    try:
        with Debian([suite], progress) as debian:
            root = debian.unpack(debian.fetch([package], (0.1, 1.0)))
            cache.store(entry, lambda folder: take(root, folder))
    except OSError as error:
        raise cache.unwritable(error) from error
    found = cache.entry(entry)
    if found is None:
        raise GuestUnavailable(f"the package {package} of {suite} holds no program", REMEDY)
    return found


def _field(archive: Path, name: str) -> str:
    """A field of a .deb file's control data."""
    command = ["dpkg-deb", "-f", str(archive), name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout.strip()


# -- unpacked packages ----------------------------------------------------------------------------------------------


def libraries(root: Path, programs: Iterable[Path]) -> list[Path]:
    """The shared libraries that programs load, and the loader, all of them below `root`; by their sonames."""
    loader = find_file(root, LOADER)
    folders = sorted({str(path.parent) for path in root.rglob("*.so.*")})
    found = {loader.name: loader}
    for program in programs:
        command = [str(loader), "--library-path", ":".join(folders), "--list", str(program)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        for name, path in re.findall(r"^\s*(\S+) => (\S+) \(0x", done.stdout, re.M):
            if Path(path).is_relative_to(root):
                found[Path(name).name] = Path(path)
        if done.returncode != 0 or "not found" in done.stdout:
            raise GuestUnavailable(
                f"{program.name} of Debian's packages lacks libraries: {done.stderr}", REMEDY
            )
    return list(found.values())


def find_file(root: Path, pattern: str) -> Path:
    """The first file of unpacked packages whose path ends so."""
    for path in sorted(root.rglob(pattern)):
        if path.is_file():
            return path
    raise GuestUnavailable(f"Debian's packages hold no {pattern}", REMEDY)


def copy_files(files: Iterable[Path], folder: Path) -> None:
    """Copy files, or what links point to, under their own names."""
    folder.mkdir()
    for path in files:
        shutil.copy2(path, folder)

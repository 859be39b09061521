"""Downloads Debian packages and unpacks them into a folder, without root, by apt-get and dpkg-deb.

The machine's own package sources and keys are used, so that this works behind any mirror; only where the machine has
no package lists, or another suite is asked for, are lists fetched into a private apt state below the cache folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from vnic.lab.guest.cache import cache_folder
from vnic.lab.guest.errors import GuestUnavailable

Progress = Callable[[float, str], None]
"""Called with the fraction done, 0 to 1, and what is being done; what it raises ends the download."""

REMEDY = "check the network and the package sources (apt-get update), then try again"

_STATUS_LINE = re.compile(r"(?:dl|pm)status:[^:]*:([0-9.]+):(.*)")
# Without a sandbox user: root's downloads, too, may go to a folder that _apt cannot read.
_OPTIONS = ("APT::Sandbox::User=root", "Acquire::Retries=3")
_TOOLS = ("apt-get", "dpkg-deb")


def apt_available() -> bool:
    return all(shutil.which(tool) for tool in _TOOLS)


class Apt:
    """apt-get with the machine's sources, or with a private state that may hold one more suite."""

    def __init__(self, options: Sequence[str] = (), complaint: str = "") -> None:
        """`complaint`: what the update of the lists lacked; it is the reason of later failures."""
        self._options = list(options)
        self._complaint = complaint

    @classmethod
    def private(cls, root: Path, extra_sources: str = "", release: str = "") -> Apt:
        """With package lists of its own, in the folder `root`.

        `extra_sources` (in deb822 form, sources.list(5)) replace the machine's.
        Then, packages are taken from the suite `release`, whatever the machine's own preferences are.
        """
        for folder in ("state/lists/partial", "cache/archives/partial", "sources.list.d"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        # dpkg's lock, too, is beside its status.
        status = root / "state/status"
        status.touch()
        options = [f"Dir::State={root}/state", f"Dir::Cache={root}/cache", f"Dir::State::status={status}"]
        if extra_sources:
            (root / "sources.list.d/extra.sources").write_text(extra_sources)
            options += ["Dir::Etc::sourcelist=/dev/null", f"Dir::Etc::sourceparts={root}/sources.list.d"]
            options += ["Dir::Etc::preferences=/dev/null", "Dir::Etc::preferencesparts=/dev/null"]
            options += [f"APT::Default-Release={release}", "Acquire::Languages=none"]
        return cls(options)

    def update(self, progress: Progress | None = None) -> None:
        """Fetch the package lists. apt-get goes on without those it cannot fetch; so does this."""
        failures = re.findall(r"^W: (Failed to fetch .*)", self._apt(["update"], progress, Path.cwd()), re.M)
        self._complaint = failures[0] if failures else ""

    def download(self, packages: Sequence[str], folder: Path, progress: Progress | None = None) -> list[Path]:
        """The .deb files of `packages`, in `folder`; apt checks them against the signed lists."""
        self._apt(["download", *packages], progress, folder)
        return sorted(folder.glob("*.deb"))

    def download_whole(
        self, packages: Sequence[str], folder: Path, release: str, progress: Progress | None = None
    ) -> list[Path]:
        """As `download`, from the suite `release`, together with all that the packages depend on.

        With a private state only, for which nothing is installed yet.
        """
        (folder / "partial").mkdir(exist_ok=True)
        options = [f"Dir::Cache::archives={folder}", f"APT::Default-Release={release}"]
        options += [
            "APT::Get::Download-Only=true",
            "APT::Get::Assume-Yes=true",
            "APT::Install-Recommends=false",
        ]
        Apt([*self._options, *options], self._complaint)._apt(["install", *packages], progress, folder)
        return sorted(folder.glob("*.deb"))

    def index_files(self) -> list[str]:
        """The addresses of the index files of all sources, as apt-get would fetch them."""
        return re.findall(r"^'([^']+)'", self._apt(["update", "--print-uris"], None, Path.cwd()), re.M)

    def _apt(self, arguments: Sequence[str], progress: Progress | None, folder: Path) -> str:
        """Run apt-get in `folder`; returns what it printed, raises GuestUnavailable with the reason."""
        read_end, write_end = os.pipe()
        options = [*self._options, *_OPTIONS, f"APT::Status-Fd={write_end}"]
        command = ["apt-get", "-q", *(word for option in options for word in ("-o", option)), *arguments]
        environment = {**os.environ, "LC_ALL": "C"}
        with tempfile.TemporaryFile("w+") as log, os.fdopen(read_end) as status:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[write_end],
                    cwd=folder,
                    env=environment,
                )
            except OSError as error:
                raise self._unavailable(arguments, str(error)) from error
            finally:
                os.close(write_end)
            with process:
                try:
                    for line in status:
                        if progress is not None and (match := _STATUS_LINE.match(line)):
                            progress(float(match[1]) / 100, match[2])
                except BaseException:  # Ctrl-C, or `progress` breaks it off
                    process.kill()
                    raise
            log.seek(0)
            text = log.read()
        if process.returncode != 0:
            raise self._unavailable(arguments, _reason(text))
        return text

    def _unavailable(self, arguments: Sequence[str], reason: str) -> GuestUnavailable:
        return GuestUnavailable(f"apt-get {' '.join(arguments)} failed: {self._complaint or reason}", REMEDY)


def download(packages: Sequence[str], folder: Path, progress: Progress | None = None) -> list[Path]:
    """The .deb files of `packages`, in `folder`, from the machine's own sources."""
    try:
        return Apt().download(packages, folder, progress)
    except GuestUnavailable:
        # No package lists, as in a container image, or old ones: fetch them into a private place.
        private = Apt.private(cache_folder() / "apt/machine")
        private.update(progress)
        return private.download(packages, folder, progress)


def _reason(log: str) -> str:
    """What apt-get complained of, in one line."""
    errors = re.findall(r"^E: (.*)", log, re.M)
    return "; ".join(errors[:2]) or log.strip()[-300:] or "no reason given"


def unpack(archives: Sequence[Path], folder: Path) -> None:
    """Unpack .deb files below `folder`, as dpkg -x does."""
    for archive in archives:
        done = subprocess.run(
            ["dpkg-deb", "-x", archive, folder], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise GuestUnavailable(
                f"cannot unpack {archive.name}: {done.stderr.strip()}", "free disk space, then try again"
            )

"""Finds a passt of 2025 or later for the tests, which has a vhost-user mode; Debian 12's own is of 2023.

It is Debian's package in the cache folder with the C library that it needs, behind a script that starts it by its
own loader, so that `path=` names it like an installed one. `make guests` fetches it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vnic.lab.guest import cache
from vnic.lab.guest.apt import Progress
from vnic.lab.guest.debian import LOADER, copy_files, find_file, libraries, obtain_program

SUITE = "trixie"
PACKAGE = "passt"
_ENTRY = f"passt-{SUITE}-1"
_SCRIPT = f"""#!/bin/sh
here=$(dirname "$0")
exec "$here/lib/{LOADER}" --library-path "$here/lib" "$here/passt.bin" "$@"
"""


@dataclass(frozen=True, slots=True)
class PasstKit:
    """A passt that was fetched."""

    program: Path

    def version_text(self) -> str:
        return f"{PACKAGE} of {SUITE}"


def find_passt() -> PasstKit | None:
    """The one that is in the cache folder already."""
    folder = cache.entry(_ENTRY)
    return None if folder is None else PasstKit(folder / PACKAGE)


def obtain_passt(progress: Progress | None = None) -> PasstKit:
    """The one in the cache folder, or else a downloaded one; GuestUnavailable says why there is none."""
    return PasstKit(obtain_program(SUITE, PACKAGE, _ENTRY, _take, progress) / PACKAGE)


def _take(root: Path, folder: Path) -> None:
    """Of packages unpacked at `root`: the program and its libraries, and the script that starts it."""
    program = find_file(root, f"*bin/{PACKAGE}")
    shutil.copy2(program, folder / "passt.bin")
    copy_files(libraries(root, [program]), folder / "lib")
    script = folder / PACKAGE
    script.write_text(_SCRIPT)
    script.chmod(0o755)

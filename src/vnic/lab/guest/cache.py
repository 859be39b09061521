"""The cache folder of downloaded guests: each entry is complete or absent, and is checked before it is used again.

The kits (`kit`, `qemu_kit`, …) store what they download here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from vnic.lab.guest.errors import GuestUnavailable
from vnic.scratch import ScratchFolder, remove_leftovers

REMEDY = "export XDG_CACHE_HOME=A_FOLDER_OF_YOURS"

_MANIFEST = "manifest.json"
_SCRATCH = (".fresh-", ".packages-")


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/vnic`, else ~/.cache/vnic; not created here."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification has relative paths ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "vnic"


def unwritable(error: OSError) -> GuestUnavailable:
    """What a download says that cannot be written down."""
    return GuestUnavailable(f"cannot write below {cache_folder()}: {error.strerror}", REMEDY)


def _file_sizes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != _MANIFEST
    }


def entry(name: str) -> Path | None:
    """The cached folder `name`, if it is there and each file has the size that it was stored with."""
    folder = cache_folder() / name
    try:
        stored = json.loads((folder / _MANIFEST).read_text())
        intact = stored == _file_sizes(folder)
    except (OSError, ValueError):
        return None
    return folder if intact else None


def store(name: str, fill: Callable[[Path], None]) -> Path:
    """Make the cached folder `name` anew: `fill` writes into an empty folder, which then takes the name at once."""
    target = cache_folder() / name
    scratch = scratch_folder(".fresh-")
    try:
        fresh = scratch.path / name
        fresh.mkdir(mode=0o700)
        fill(fresh)
        (fresh / _MANIFEST).write_text(json.dumps(_file_sizes(fresh), indent=0))
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        scratch.remove()
    return target


def scratch_folder(prefix: str) -> ScratchFolder:
    """A folder of one of `_SCRATCH` below the cache folder; those of downloads that were killed are removed."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_leftovers(folder, _SCRATCH)
    return ScratchFolder(prefix, folder)

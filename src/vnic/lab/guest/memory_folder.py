"""Where a User-Mode Linux keeps its memory file: on a tmpfs, because vnic maps no file on a disk.

`uml` and `vnic doctor` call it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

from vnic.descriptors import seals_of

FOLDERS = ("/dev/shm", "/tmp")


def memory_folders() -> Iterator[tuple[str, int]]:
    """Each folder on a tmpfs that files can be made in, with the bytes that are free there."""
    for folder in dict.fromkeys((*FOLDERS, tempfile.gettempdir())):
        try:
            with tempfile.TemporaryFile(dir=folder) as probe:
                if seals_of(probe.fileno()) is not None:
                    yield folder, shutil.disk_usage(folder).free
        except OSError:
            continue


def memory_folder(size: int) -> str | None:
    """The first with room for `size` bytes; else, as in a container with a small one, the one that has most, as a guest
    that just boots uses a part of its memory only. None: there is no tmpfs."""
    rooms = dict(memory_folders())
    for folder, room in rooms.items():
        if room > size:
            return folder
    return max(rooms, key=rooms.__getitem__, default=None)

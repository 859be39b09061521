"""The descriptors that control has stored, by name, until it removes them or the keeper ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from typing import Final

from vnic.quota import OPEN_FILES

SUPERVISORS_OWN: Final = 320
"""Open files of the supervisor that are not stored ones, with room for one message's."""

FDS_MAX: Final = OPEN_FILES - SUPERVISORS_OWN
"""The most descriptors that are stored: as many as control may have open, but for the supervisor's own."""

FIRST: Final = 3
"""The number of the first descriptor that is handed over, unless the user's own are there (SD_LISTEN_FDS_START)."""


class FdStore:
    """Unlike systemd, it does not look whether a file is stored already: control stores each once."""

    def __init__(self, first: int = FIRST, limit: int = FDS_MAX) -> None:
        """`first`: the number that the first descriptor has in the child. All that are stored have this number or a
        higher one, so that `hand_over` can move them downwards in one pass."""
        self.first = first
        self._limit = limit
        self._fds: dict[str, list[int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, fds: Iterable[int]) -> int:
        """Take over the descriptors. Returns how many there was no room for; those are closed."""
        refused = 0
        for fd in fds:
            if self._count >= self._limit:
                os.close(fd)
                refused += 1
                continue
            self._fds.setdefault(name, []).append(self._at_or_above_first(fd))
            self._count += 1
        return refused

    def _at_or_above_first(self, fd: int) -> int:
        if fd >= self.first:
            return fd
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, self.first)
        os.close(fd)
        return moved

    def remove(self, name: str) -> None:
        """Close all descriptors of that name; there may be none."""
        for fd in self._fds.pop(name, ()):
            os.close(fd)
            self._count -= 1

    def clear(self) -> None:
        for name in list(self._fds):
            self.remove(name)

    def hand_over(self) -> list[str]:
        """In the child before exec: move the descriptors to `first` and the numbers after it, for the new program to
        inherit. Returns their names in that order. It overwrites descriptors of this process that are there."""
        ordered = sorted((fd, name) for name, fds in self._fds.items() for fd in fds)
        # Ascending, and each to a number that is not above its own: no descriptor is overwritten before it was moved.
        for number, (fd, _) in enumerate(ordered, self.first):
            if fd == number:
                os.set_inheritable(fd, True)
            else:
                os.dup2(fd, number)
        return [name for _, name in ordered]

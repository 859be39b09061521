"""Keeps the garbage collector from walking through thousands of NICs that are there to stay.

The machine tells it of each NIC that it adds or removes. A full collection takes some 35 µs for a NIC, in one turn of
the loop: a third of a second with 10 000 NICs, and Python makes several while they are added. So what is there after a
number of NICs were added is no longer looked at, until a good part of that has been removed: what is removed refers to
itself in circles, and only a collection frees it.
"""

from __future__ import annotations

import gc
from typing import Final

BATCH: Final = 256
"""A collection of so many NICs takes some 10 ms."""
REMOVED_SHARE: Final = 4
"""All is looked at again when one NIC in so many was removed, and BATCH at least."""


class LongLived:
    """The NICs of one machine."""

    def __init__(self) -> None:
        self._new = 0
        self._frozen = 0
        """How many were there when the collector was last told to look no longer."""
        self._removed = 0

    def added(self) -> None:
        """One more NIC is complete."""
        self._new += 1
        if self._new >= BATCH:
            gc.collect(1)  # what is young and garbage is not to stay
            self._freeze()

    def removed(self) -> None:
        """One NIC was removed; which one does not matter."""
        self._removed += 1
        if self._frozen and self._removed >= max(BATCH, self._frozen // REMOVED_SHARE):
            gc.unfreeze()
            gc.collect()
            self._freeze()

    def _freeze(self) -> None:
        gc.freeze()
        self._frozen = max(self._frozen + self._new - self._removed, 0)
        self._new = self._removed = 0

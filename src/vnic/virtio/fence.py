"""A memory fence for the two sides of a ring, as far as Python has one. `SplitQueue` uses it.

Between its own store and its load of what the other side stores, each side needs a fence, or a notification is lost.
"""

from __future__ import annotations

import platform
from _thread import allocate_lock
from typing import Final

fence_lock: Final = allocate_lock()
"""Acquiring it is the fence on x86-64 (measured: reorderings without it, none with it); there are no other threads."""

FENCED: Final = platform.machine() in ("x86_64", "AMD64")
"""Elsewhere, notifications are not suppressed, which is always correct (virtio 1.2 §2.7.7, §2.7.10)."""

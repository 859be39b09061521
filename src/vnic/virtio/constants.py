"""The constants of virtio 1.2 that all devices share: device status, ring flags, sizes, device ids.

Devices and transports use them, also in hot paths: plain ints, since an IntFlag costs twenty times as much.
"""

from __future__ import annotations

from typing import Final

# Device status (§2.1).
STATUS_ACKNOWLEDGE: Final = 1
STATUS_DRIVER: Final = 2
STATUS_DRIVER_OK: Final = 4
STATUS_FEATURES_OK: Final = 8
STATUS_NEEDS_RESET: Final = 64
STATUS_FAILED: Final = 128

# Descriptor flags (§2.7.5).
DESC_NEXT: Final = 1
DESC_WRITE: Final = 2
DESC_INDIRECT: Final = 4

# Ring flags (§2.7.6, §2.7.8).
AVAIL_NO_INTERRUPT: Final = 1
USED_NO_NOTIFY: Final = 1

# Sizes and alignments of a split ring's parts (§2.7).
DESC_BYTES: Final = 16
DESC_ALIGN: Final = 16
AVAIL_ALIGN: Final = 2
USED_ALIGN: Final = 4
QUEUE_SIZE_LIMIT: Final = 32768

# Device ids (§5).
ID_NET: Final = 1

LOGGED_BREAKS = 16
"""Limit on log lines about broken rings of one VM, so that a hostile driver cannot fill the log."""

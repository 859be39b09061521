"""Feature bits of virtio 1.2 that are not specific to a device (§6). Devices and transports use them."""

from __future__ import annotations

from typing import Final

NOTIFY_ON_EMPTY: Final = 1 << 24
ANY_LAYOUT: Final = 1 << 27
INDIRECT_DESC: Final = 1 << 28
EVENT_IDX: Final = 1 << 29
VERSION_1: Final = 1 << 32
ACCESS_PLATFORM: Final = 1 << 33
RING_PACKED: Final = 1 << 34
IN_ORDER: Final = 1 << 35
RING_RESET: Final = 1 << 40

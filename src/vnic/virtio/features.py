"""Feature bits of virtio 1.2 that are not one device's (§6), and how sets of bits are shown to people."""

from __future__ import annotations

from collections.abc import Mapping
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

NAMES: Final[Mapping[int, str]] = {
    NOTIFY_ON_EMPTY: "NOTIFY_ON_EMPTY",
    ANY_LAYOUT: "ANY_LAYOUT",
    INDIRECT_DESC: "INDIRECT_DESC",
    EVENT_IDX: "EVENT_IDX",
    VERSION_1: "VERSION_1",
    ACCESS_PLATFORM: "ACCESS_PLATFORM",
    RING_PACKED: "RING_PACKED",
    IN_ORDER: "IN_ORDER",
    RING_RESET: "RING_RESET",
}


def names(bits: int, device_names: Mapping[int, str] | None = None) -> str:
    """The bits by name, lowest first; unknown ones as `bit N`."""
    known = {**NAMES, **(device_names or {})}
    return ", ".join(known.get(1 << n, f"bit {n}") for n in range(bits.bit_length()) if bits >> n & 1)

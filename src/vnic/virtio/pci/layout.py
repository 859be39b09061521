"""The layout of a virtio PCI function's structures, and the capabilities that describe it (virtio 1.2 §4.1.4).

`transport` uses it. It is that of QEMU's virtio-pci: one 64-bit prefetchable window in BAR 4, MSI-X in BAR 1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from vnic.pci.bar import Bar
from vnic.pci.capability import Capability, vendor

VENDOR: Final = 0x1AF4
DEVICE_BASE: Final = 0x1040  # plus the virtio device id (§4.1.2)
SUBSYSTEM: Final = 0x1100  # as QEMU's modern devices
REVISION: Final = 1

MSIX_BAR: Final = 1
WINDOW: Final = Bar(4, 0x4000, is_64bit=True, prefetchable=True)

# The window's four parts, 4 KiB each.
COMMON: Final = 0
ISR: Final = 1
DEVICE: Final = 2
NOTIFY: Final = 3
PART_SHIFT: Final = 12
PART_SIZE: Final = 1 << PART_SHIFT
NOTIFY_MULTIPLIER: Final = 4
MAX_QUEUES: Final = PART_SIZE // NOTIFY_MULTIPLIER

# struct virtio_pci_common_cfg (§4.1.4.3): name, offset, size, access.
COMMON_CFG: Final = (
    ("device_feature_select", 0, 4, "rw"),
    ("device_feature", 4, 4, "r"),
    ("driver_feature_select", 8, 4, "rw"),
    ("driver_feature", 12, 4, "rw"),
    ("config_msix_vector", 16, 2, "rw"),
    ("num_queues", 18, 2, "r"),
    ("device_status", 20, 1, "rw"),
    ("config_generation", 21, 1, "r"),
    ("queue_select", 22, 2, "rw"),
    ("queue_size", 24, 2, "rw"),
    ("queue_msix_vector", 26, 2, "rw"),
    ("queue_enable", 28, 2, "rw"),
    ("queue_notify_off", 30, 2, "r"),
    ("queue_desc", 32, 8, "rw"),
    ("queue_driver", 40, 8, "rw"),
    ("queue_device", 48, 8, "rw"),
    ("queue_notify_data", 56, 2, "r"),
    ("queue_reset", 58, 2, "rw"),
)
PLACE: Final = {name: (offset, size) for name, offset, size, _ in COMMON_CFG}
COMMON_LAYOUT: Final = struct.Struct("<IIIIHHBBHHHHHQQQHH")
assert COMMON_LAYOUT.size == COMMON_CFG[-1][1] + COMMON_CFG[-1][2] == 60

NO_VECTOR: Final = 0xFFFF
ISR_QUEUE: Final = 1
ISR_CONFIG: Final = 2

# struct virtio_pci_cap (§4.1.4) after id and next: length, cfg_type, bar, id, padding, offset, length.
_CAP: Final = struct.Struct("<BBBB2xII")
assert _CAP.size == 14
CAP_COMMON_CFG: Final = 1
CAP_NOTIFY_CFG: Final = 2
CAP_ISR_CFG: Final = 3
CAP_DEVICE_CFG: Final = 4
CAP_PCI_CFG: Final = 5

# Offsets in the PCI configuration access capability (§4.1.4.9).
PCI_CFG_BAR: Final = 4
PCI_CFG_OFFSET: Final = 8
PCI_CFG_LENGTH: Final = 12
PCI_CFG_DATA: Final = 16
PCI_CFG_SIZE: Final = 20


def capabilities() -> tuple[Capability, ...]:
    """The vendor capabilities, in the order of their types; the last is the one for access through config space."""

    def part(kind: int, at: int, length: int, extra: bytes = b"") -> Capability:
        return vendor(
            _CAP.pack(2 + _CAP.size + len(extra), kind, WINDOW.index, 0, at << PART_SHIFT, length) + extra
        )

    access = _CAP.pack(PCI_CFG_SIZE, CAP_PCI_CFG, 0, 0, 0, 0) + bytes(4)
    writable = struct.pack("<BBBB2xII4s", 0, 0, 0xFF, 0, 0xFFFFFFFF, 0xFFFFFFFF, b"\xff" * 4)
    return (
        part(CAP_COMMON_CFG, COMMON, PART_SIZE),
        part(CAP_NOTIFY_CFG, NOTIFY, PART_SIZE, NOTIFY_MULTIPLIER.to_bytes(4, "little")),
        part(CAP_ISR_CFG, ISR, PART_SIZE),
        part(CAP_DEVICE_CFG, DEVICE, PART_SIZE),
        vendor(access, writable),
    )


DOORBELLS: Final = (NOTIFY << PART_SHIFT, PART_SIZE, NOTIFY_MULTIPLIER)
"""Where the notifications are in WINDOW: offset, size, and the distance from one queue to the next."""

QUEUE_ADDRESSES: Final = {
    PLACE["queue_desc"][0]: "desc",
    PLACE["queue_driver"][0]: "avail",
    PLACE["queue_device"][0]: "used",
}
"""Offset of each ring address, and its attribute of SplitQueue."""


def access_target(get: Callable[[int, int], int]) -> tuple[int, int] | None:
    """(offset, length) in WINDOW that the PCI configuration access capability selects; `get(offset, size)` reads it.
    None: it is outside."""
    bar, offset, length = get(PCI_CFG_BAR, 1), get(PCI_CFG_OFFSET, 4), get(PCI_CFG_LENGTH, 4)
    if bar != WINDOW.index or length not in (1, 2, 4) or offset + length > WINDOW.size:
        return None
    return offset, length

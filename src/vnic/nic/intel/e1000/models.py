"""The chips that the E1000 emulates: QEMU's three, under QEMU's names. The machine finds a model here.

They differ in the ids in config space, EEPROM and PHY; all have copper, a Microwire EEPROM of 64 words and the
82540EM's registers, as in QEMU (hw/net/e1000.c: e1000_devices).
"""

from __future__ import annotations

from dataclasses import dataclass

SUBSYSTEM_VENDOR = 0x1AF4
SUBSYSTEM = 0x1100
"""QEMU's default subsystem id; guests' driver databases know it."""
REVISION = 3


@dataclass(frozen=True, slots=True)
class Model:
    """`name` is what `info network` prints; `phy_id2` is the PHY's second identifier (SDM §13.4.7.1)."""

    name: str
    device_id: int
    phy_id2: int


_82540EM = Model("e1000", 0x100E, 0x0C20)

MODELS = {
    "e1000": _82540EM,
    "e1000-82540em": _82540EM,  # QEMU's alias
    "e1000-82544gc": Model("e1000-82544gc", 0x100C, 0x0C30),
    "e1000-82545em": Model("e1000-82545em", 0x100F, 0x0C20),
}
"""The values of `-device` that this package serves."""

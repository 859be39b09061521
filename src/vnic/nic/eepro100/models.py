"""The chips of the family: QEMU's thirteen (e100_devices), which differ in ids and in what came with later ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VENDOR_INTEL: Final = 0x8086
_82557: Final = 0x1229
_82551IT: Final = 0x1209
_82801: Final = 0x2449


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    device_id: int
    revision: int
    statistics_bytes: int = 80
    """The longest form of the counters that it can dump."""
    extended: bool = True
    """It has the extended transmit command block, and power management."""
    eeprom_id: int = 0x4000
    """Word 5 of the EEPROM; the signature of a valid one."""
    subsystem_vendor: int = 0x1AF4
    subsystem: int = 0x1100
    """QEMU's default subsystem id, unless a model has its own."""


MODELS: Final = {
    model.name: model
    for model in (
        Model("i82550", _82551IT, 0x0E),
        Model("i82551", _82551IT, 0x0F),
        Model("i82557a", _82557, 0x01, 64, extended=False),
        Model("i82557b", _82557, 0x02, 64, extended=False, eeprom_id=0x0100),
        Model("i82557c", _82557, 0x03, 64, extended=False, eeprom_id=0x0100),
        Model("i82558a", _82557, 0x04, 76),
        Model("i82558b", _82557, 0x05, 76),
        Model("i82559a", _82557, 0x06),
        Model("i82559b", _82557, 0x07),
        Model("i82559c", _82557, 0x0C, subsystem_vendor=VENDOR_INTEL, subsystem=0x0040),
        Model("i82559er", _82551IT, 0x09),
        Model("i82562", _82551IT, 0x0E),
        Model("i82801", _82801, 0x03),
    )
}
"""The values of `-device` that this package serves."""

"""Where a NIC sits in its VM: properties of a QEMU command line that the VM's own -device decides, and not vnic.

They are taken without effect, so that a -device can be moved over as it is; `note` tells the user.
"""

from __future__ import annotations

import logging
from typing import Annotated, TypeAlias

import msgspec

log = logging.getLogger(__name__)

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-0x80000000, le=0xFFFFFFFF)]


class PlaceOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The properties of any PCI card of QEMU: its slot, its boot ROM and its turn in booting."""

    bus: str | None = None
    addr: str | None = None
    multifunction: bool | None = None
    acpi_index: Number | None = msgspec.field(name="acpi-index", default=None)
    romfile: str | None = None
    rombar: Number | None = None
    romsize: Number | None = None
    bootindex: Number | None = None


PLACE = {field.name: field.encode_name for field in msgspec.structs.fields(PlaceOptions)}
"""By attribute, the property's name."""


def note(nic: str, options: PlaceOptions) -> None:
    """Say which of them were given, and where they belong."""
    given = [f"{key}=" for attribute, key in PLACE.items() if getattr(options, attribute) is not None]
    if given:
        log.warning("%s: %s without effect: the VM's own -device takes them", nic, ", ".join(given))

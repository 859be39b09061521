"""Where a NIC sits in its VM: properties of a QEMU command line that the VM's own -device decides, and not vnic.

They are taken without effect, so that a -device can be moved over as it is; `note` tells the user.
"""

from __future__ import annotations

import logging
import re
from typing import Annotated, TypeAlias

import msgspec

from vnic.net.errors import NetError

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


SLOT_MAX = 31
_ADDR = re.compile(r"(?:0[xX])?([0-9A-Fa-f]{1,2})(?:\.(?:0[xX])?[0-7])?")

PLACE = {field.name: field.encode_name for field in msgspec.structs.fields(PlaceOptions)}
"""By attribute, the property's name."""


def note(nic: str, options: PlaceOptions) -> None:
    """Name those that were given, and where they belong."""
    given = [f"{key}=" for attribute, key in PLACE.items() if getattr(options, attribute) is not None]
    if given:
        log.warning("%s: %s without effect: the VM's own -device takes them", nic, ", ".join(given))


def slot(options: PlaceOptions) -> int | None:
    """The slot that `addr=` names, as 3 of `0x3` and `03.1`, for query-pci. NetError as qdev's for another text."""
    if options.addr is None:
        return None
    found = _ADDR.fullmatch(options.addr)
    if found is None or int(found[1], 16) > SLOT_MAX:
        raise NetError(f"Property '{options.__struct_config__.tag}.addr' doesn't take value '{options.addr}'")
    return int(found[1], 16)

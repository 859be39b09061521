"""What the serial ROM holds: ids, the address, and where the PHY is (Digital Semiconductor 21X4 Serial ROM Format)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

from vnic.nic.microwire import WORDS

VENDOR: Final = 0x103C
DEVICE: Final = 0x104F
_FORMAT: Final = 4
_LEAF: Final = 30
"""Where the controller's information is."""
_AUTOSENSE: Final = 0x0800
_MEDIA: Final = bytes.fromhex("8d 03 00 00 00 00 78 e0 01 00 50 00 18 00")
"""One block, of type 3: a PHY on the MII, with no sequences, that has and advertises 10 and 100 Mbit/s, full and half
duplex."""


def srom_words(mac: bytes) -> Sequence[int]:
    """All words, with both checksums."""
    ids = struct.pack("<HH12xBB", VENDOR, DEVICE, 0, 0x08)
    head = ids[:16] + bytes((_id_checksum(ids), ids[17], _FORMAT, 1)) + mac + bytes((0, _LEAF))
    data = head.ljust(_LEAF, b"\0") + struct.pack("<HB", _AUTOSENSE, 1) + _MEDIA
    data = data.ljust(2 * WORDS - 2, b"\0")
    return struct.unpack(f"<{WORDS}H", data + (zlib.crc32(data) & 0xFFFF).to_bytes(2, "little"))


def _id_checksum(ids: bytes) -> int:
    """CRC-8 of the id block but for this byte, which is the second last: each word from its upper bit on."""
    words = struct.unpack("<9H", ids)
    bits = [word >> bit & 1 for word in words for bit in range(15, -1, -1)][:-8]
    crc = 0xFF
    for bit in bits:
        crc = (crc << 1 & 0xFF) ^ (0x07 if bit ^ crc >> 7 else 0)
    return crc

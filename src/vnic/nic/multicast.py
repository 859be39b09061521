"""The index into a multicast table of 64 bits, as chips compute it: six bits of the Ethernet CRC of the address, most
significant bit first (Linux: `ether_crc`)."""

from __future__ import annotations

import zlib
from typing import Final

UPPER: Final = 26
_MIRRORED: Final = [int(f"{bits:06b}"[::-1], 2) for bits in range(64)]


def multicast_index(address: bytes, first: int = UPPER) -> int:
    """From 0 to 63. `first` is the lowest bit of the CRC that is taken; the chips of National and Realtek take the
    upper six."""
    # zlib's CRC has the other order of bits, and is inverted.
    return _MIRRORED[~zlib.crc32(address) >> UPPER - first & 63]

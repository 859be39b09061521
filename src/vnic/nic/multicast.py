"""The index into a multicast table of 64 bits, as the chips of National and Realtek compute it.

The upper six bits of the Ethernet CRC of the address, most significant bit first (Linux: `ether_crc(6, addr) >> 26`).
"""

from __future__ import annotations

import zlib


def multicast_index(address: bytes) -> int:
    """From 0 to 63."""
    last = ~zlib.crc32(address) & 63  # zlib's CRC has the other order of bits, and is inverted
    return int(f"{last:06b}"[::-1], 2)

"""The address filter of the 21143, which the guest loads by a setup frame (Hardware Reference Manual §4.2.3).

It has sixteen addresses, or one and a hash table of 512 bits; only the lower half of each longword counts.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

SETUP_BYTES: Final = 192
_ADDRESSES: Final = 16
_HASHED_ADDRESS: Final = 13
_BROADCAST: Final = b"\xff" * 6
HASH: Final = 1
INVERSE: Final = 2
"""Bits of the filter's type; both: multicast addresses by hash, and no other address."""


class SetupFilter:
    """What the last setup frame said."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.load(bytes(SETUP_BYTES), 0)

    def load(self, frame: bytes, kind: int) -> None:
        """Take a setup frame of `SETUP_BYTES`."""
        self.frame, self.kind = frame, kind
        words = struct.unpack(f"<{SETUP_BYTES // 4}I", frame)
        halves = struct.pack(f"<{len(words)}H", *(word & 0xFFFF for word in words))
        self._addresses = [halves[6 * at : 6 * at + 6] for at in range(_ADDRESSES)]
        self._hash = int.from_bytes(halves[:64], "little")

    def accepts(self, destination: bytes) -> bool:
        if destination == _BROADCAST:
            return True  # QEMU's does so, whatever the setup frame says
        if self.kind & HASH:
            if destination[0] & 1 or self.kind & INVERSE:
                return bool(self._hash >> ((zlib.crc32(destination) ^ 0xFFFF_FFFF) & 0x1FF) & 1)
            return destination == self._addresses[_HASHED_ADDRESS]
        return (destination in self._addresses) != bool(self.kind & INVERSE)

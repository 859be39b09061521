"""The card's memory: the PROM with the MAC address, and 32 KiB for packets, which the driver reads and writes by the
data port (remote DMA).

The packets are in cells, which outlive the process: they are not in the record then, which each access has saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

PROM_BYTES: Final = 32
START: Final = 0x4000
END: Final = 0xC000
SIZE: Final = END - START
CELLS: Final = SIZE // 8
_SIGNATURE: Final = 0x57  # of a card that takes words


class CardMemory:
    """Bytes by their address; where nothing is, all bits read as ones."""

    def __init__(self) -> None:
        self._packets = memoryview(bytearray(SIZE))
        self._prom = bytes(PROM_BYTES)

    def program(self, mac: bytes) -> None:
        """Each byte of the PROM is there twice, since it has eight bits."""
        self._prom = bytes(byte for byte in (*mac, *bytes(8), _SIGNATURE, _SIGNATURE) for _ in range(2))

    def use_cells(self, cells: memoryview, *, keep: bool) -> None:
        """Go on there; `keep`: with what is there."""
        packets = cells.cast("B")
        if not keep:
            packets[:] = self._packets
        self._packets = packets

    def read(self, address: int, size: int) -> int:
        found = 0
        for at in range(size):
            byte = 0xFF
            if address + at < PROM_BYTES:
                byte = self._prom[address + at]
            elif START <= address + at < END:
                byte = self._packets[address + at - START]
            found |= byte << 8 * at
        return found

    def write(self, address: int, value: int, size: int) -> None:
        for at in range(size):
            if START <= address + at < END:
                self._packets[address + at - START] = value >> 8 * at & 0xFF

    def packet(self, address: int, length: int) -> bytes | None:
        """None: that is not in the memory."""
        if not START <= address <= address + length <= END:
            return None
        return bytes(self._packets[address - START : address - START + length])

    def put(self, pages: Iterator[int], data: bytes) -> None:
        """Write a frame, page by page."""
        for at, page in zip(range(0, len(data), 256), pages, strict=False):
            piece = data[at : at + 256]
            self._packets[page * 256 - START : page * 256 - START + len(piece)] = piece

    @property
    def data(self) -> bytes:
        return bytes(self._packets)

    def restore(self, data: bytes) -> None:
        self._packets[:] = data

"""The layouts of receive descriptors: how a frame is cut into their buffers, and what is written back.

`rx.py` works with the format that the guest has chosen. The legacy layout is that of all models (SDM §3.2.3); the
82574 adds the extended and the packet split one (82574 datasheet §7.1.4, §7.1.5), and the 82576's advanced one is
written back as the extended one is.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Protocol

from vnic.nic.intel.rings import DESCRIPTOR_BYTES

# Descriptor status, SDM §3.2.3.1
DD: Final = 1 << 0
EOP: Final = 1 << 1
IXSM: Final = 1 << 2
VP: Final = 1 << 3
UNSHOWN: Final = 1 << 7
"""PIF, in the status of a descriptor that is filled, and not done yet: no driver looks at it before DD is set, and the
process that takes our place can tell such a descriptor from one that the guest has posted again."""

_ADDRESS = struct.Struct("<Q")
_ADDRESSES = struct.Struct("<4Q")
_LEGACY = struct.Struct("<HHBBH")  # length, checksum, status, errors, special; from byte 8
_EXTENDED = struct.Struct("<IIIHH")  # MRQ; RSS hash, or IP id and checksum; status and errors; length; VLAN
_SPLIT = struct.Struct("<IIIHHHHHHQ")  # the same; header status; the other buffers' lengths; reserved
assert _ADDRESS.size + _LEGACY.size == _EXTENDED.size == DESCRIPTOR_BYTES
assert _ADDRESSES.size == _SPLIT.size == 2 * DESCRIPTOR_BYTES
_LEGACY_STATUS_AT = 12
_EXTENDED_STATUS_AT = 8
_HEADER_SPLIT = 1 << 15


RXE: Final = 1 << 31
"""The error by which a driver drops a frame."""


class Arrival(NamedTuple):
    """What the last descriptor of a frame tells of it."""

    status: int
    """As in extended descriptors: status in bits 19:0, errors in 31:20. Legacy ones have bits 7:0 and 31:24."""
    tag: int = 0
    mrq: int = 0
    rss: int = 0
    """The second dword: the RSS hash, or the IP identification and the packet's checksum."""
    header_bytes: int = 0
    """Where a packet split format separates the headers from the payload; 0: it does not."""
    queue: int = 0
    causes: int = 0
    """Interrupt causes besides those of every frame."""


class Format(Protocol):
    """A layout of descriptors with buffers of certain sizes."""

    units: int
    """The size of a descriptor in units of 16 bytes, by which head and tail count."""
    status_at: int
    """The byte with Descriptor Done."""
    overwrites: bool
    """What is written back takes the place of the buffers' addresses."""
    buffer_bytes: int
    """The size of the buffers of each 16 bytes of descriptor, for the fetches from a VM that shares no memory."""

    def cut(self, data: bytes, header_bytes: int, /) -> list[tuple[bytes, ...]]:
        """What goes into the buffers of each descriptor; at least one."""

    def addresses(self, descriptor: bytes, /) -> tuple[int, ...]:
        """Where the buffers are. Without the first, the descriptor is passed over (§3.2.3)."""

    def written_back(self, pieces: tuple[bytes, ...], arrival: Arrival | None, /) -> tuple[int, bytes, int]:
        """The bytes from an offset on that say what is in the buffers, with UNSHOWN in place of DD, and the status byte
        with DD. `arrival` is that of the frame whose last piece this is."""


class Legacy:
    """One buffer, 16 bytes."""

    units = 1
    status_at = _LEGACY_STATUS_AT
    overwrites = False

    def __init__(self, buffer_bytes: int) -> None:
        self.buffer_bytes = buffer_bytes

    def cut(self, data: bytes, header_bytes: int) -> list[tuple[bytes, ...]]:
        size = self.buffer_bytes
        if len(data) <= size:
            return [(data,)]
        return [(data[at : at + size],) for at in range(0, len(data), size)]

    def addresses(self, descriptor: bytes) -> tuple[int, ...]:
        return _ADDRESS.unpack_from(descriptor)

    def written_back(self, pieces: tuple[bytes, ...], arrival: Arrival | None) -> tuple[int, bytes, int]:
        status = tag = errors = 0
        if arrival is not None:
            status, tag, errors = arrival.status & 0xFF | EOP, arrival.tag, arrival.status >> 24
        return (
            _ADDRESS.size,
            _LEGACY.pack(len(pieces[0]), 0, status | UNSHOWN, errors, tag),
            status | DD,
        )


class Extended(Legacy):
    """One buffer, 16 bytes, of which all are written back."""

    status_at = _EXTENDED_STATUS_AT
    overwrites = True

    def written_back(self, pieces: tuple[bytes, ...], arrival: Arrival | None) -> tuple[int, bytes, int]:
        if arrival is None:
            return 0, _EXTENDED.pack(0, 0, UNSHOWN, len(pieces[0]), 0), DD
        status = arrival.status | EOP
        data = _EXTENDED.pack(arrival.mrq, arrival.rss, status | UNSHOWN, len(pieces[0]), arrival.tag)
        return 0, data, status & 0xFF | DD


class PacketSplit:
    """Four buffers, 32 bytes: the headers go into the first one, and the payload into the others.

    What cannot be split fills the buffers in turn. The header buffer of further descriptors stays empty (§7.1.5.1).
    """

    units = 2
    status_at = _EXTENDED_STATUS_AT
    overwrites = True

    def __init__(self, sizes: tuple[int, int, int, int]) -> None:
        self._sizes = sizes
        self.buffer_bytes = sum(sizes) // self.units

    def splits(self, header_bytes: int) -> bool:
        """Whether headers of this size are separated from the payload."""
        first, *others = self._sizes
        return 0 < header_bytes <= first and any(others)

    def cut(self, data: bytes, header_bytes: int) -> list[tuple[bytes, ...]]:
        first, *others = self._sizes
        if not self.splits(header_bytes):
            header_bytes = 0
        found: list[tuple[bytes, ...]] = []
        at = 0
        while at < len(data) or not found:
            pieces = []
            room = header_bytes * (not found) if header_bytes else first
            for size in (room, *others):
                pieces.append(data[at : at + size])
                at += len(pieces[-1])
            found.append(tuple(pieces))
            if not any(pieces):
                break  # buffers without any room
        return found

    def addresses(self, descriptor: bytes) -> tuple[int, ...]:
        return _ADDRESSES.unpack_from(descriptor)

    def written_back(self, pieces: tuple[bytes, ...], arrival: Arrival | None) -> tuple[int, bytes, int]:
        status = mrq = rss = tag = header = 0
        if arrival is not None:
            status, mrq, rss, tag = arrival.status | EOP, arrival.mrq, arrival.rss, arrival.tag
            header = arrival.header_bytes and arrival.header_bytes | _HEADER_SPLIT
        lengths = [len(piece) for piece in pieces]
        data = _SPLIT.pack(mrq, rss, status | UNSHOWN, lengths[0], tag, header, *lengths[1:], 0)
        return 0, data, status & 0xFF | DD

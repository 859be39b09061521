"""Offload contexts of Intel's NICs: where checksums start, go and end, and how a frame is to be segmented.

The transmit units call it with a whole frame. It returns the frame and a virtio_net_hdr with the pending work (SDM
§3.3.6, §3.5); `net/offload.py` completes it for a receiver without offload.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from vnic.net import offload
from vnic.record import U8, U16, Record

ETH_BYTES = 14
_IP_LIMIT = 0xFFFF
_CONTEXT_TCP = 1 << 24
_CONTEXT_IP = 1 << 25
_KEPT_SCTP = 1 << 16


class ContextRecord(Record, frozen=True):
    ip_start: U8
    ip_at: U8
    ip_end: U16
    start: U8
    at: U8
    end: U16
    ipv4: bool
    tcp: bool
    header_bytes: U8
    mss: U16
    tag: U16 = 0
    sctp: bool = False


class Context(NamedTuple):
    """An offload context (SDM §3.3.6): where checksums start, go and end, and how to segment. Byte offsets."""

    ip_start: int = 0
    ip_at: int = 0
    ip_end: int = 0
    start: int = 0
    at: int = 0
    end: int = 0
    """Ends are inclusive; 0 means the frame's end."""
    ipv4: bool = False
    tcp: bool = False
    header_bytes: int = 0
    mss: int = 0
    tag: int = 0
    """The VLAN tag, where it is in the context."""
    sctp: bool = False

    def save(self) -> ContextRecord:
        return ContextRecord(**self._asdict())

    @classmethod
    def of(cls, record: ContextRecord) -> Context:
        return cls(*(getattr(record, name) for name in cls._fields))

    def words(self) -> tuple[int, int]:
        """As two u64: the first two dwords of the descriptor, and what the rest says."""
        first = self.ip_start | self.ip_at << 8 | self.ip_end << 16
        first |= self.start << 32 | self.at << 40 | self.end << 48
        flags = _CONTEXT_IP * self.ipv4 | _CONTEXT_TCP * self.tcp | _KEPT_SCTP * self.sctp | self.tag
        return first, flags | (self.header_bytes << 8 | self.mss << 16) << 32

    @classmethod
    def of_words(cls, first: int, second: int) -> Context:
        context = cls.parse(first, second & 0xFFFFFFFF, second >> 32)
        return context._replace(tag=second & 0xFFFF, sctp=bool(second & _KEPT_SCTP))

    @classmethod
    def parse(cls, address: int, lower: int, upper: int) -> Context:
        return cls(
            address & 0xFF,
            address >> 8 & 0xFF,
            address >> 16 & 0xFFFF,
            address >> 32 & 0xFF,
            address >> 40 & 0xFF,
            address >> 48,
            bool(lower & _CONTEXT_IP),
            bool(lower & _CONTEXT_TCP),
            upper >> 8 & 0xFF,
            upper >> 16,
        )


class Segmented(NamedTuple):
    """A frame that its receiver cuts into segments."""

    frame: bytes
    header: bytes
    """The virtio_net_hdr."""
    sizes: list[tuple[int, int]]
    """What the segments will be: bytes, and how many of that size."""
    full: int
    """How many are full."""


def segmented(frame: bytes, context: Context, shift: int, *, ip_checksum: bool) -> Segmented:
    """Describe a frame to be segmented as virtio does it: lengths and the pseudo-header's sum of the whole.

    The driver leaves the lengths at 0 and out of the sum, as each segment gets its own (SDM §3.5.3). `shift` is what
    was inserted in front of the IP header. Raises OffloadError for a context that does not fit the frame.
    """
    l3, l4, at = context.ip_start + shift, context.start + shift, context.at + shift
    payload_at = context.header_bytes + shift
    payload_bytes = len(frame) - payload_at
    ip_header = 20 if context.ipv4 else 40
    if (
        not context.mss
        or payload_bytes < 0
        or not ETH_BYTES <= l3 <= l4 - ip_header
        or not l4 + 8 <= payload_at
        or at != l4 + (16 if context.tcp else 6)
        or at + 2 > payload_at
        or len(frame) - l3 > _IP_LIMIT
        or payload_bytes > context.mss * offload.MAX_SEGMENTS
    ):
        raise offload.OffloadError(f"{len(frame)} bytes cannot be segmented by {context}")
    whole = bytearray(frame)
    if context.ipv4:
        struct.pack_into(">H", whole, l3 + 2, len(whole) - l3)
        if ip_checksum and l3 + 10 == context.ip_at + shift:
            struct.pack_into(">H", whole, l3 + 10, 0)
            offload.fill_checksum(whole, l3, l3 + 10, l4)
    else:
        struct.pack_into(">H", whole, l3 + 4, len(whole) - l3 - 40)
    pseudo = struct.unpack_from(">H", whole, at)[0] + len(whole) - l4
    struct.pack_into(">H", whole, at, pseudo % 0xFFFF)
    kind = offload.GSO_UDP_L4
    if context.tcp:
        kind = offload.GSO_TCPV4 if context.ipv4 else offload.GSO_TCPV6
    header = offload.encode(kind, context.mss, payload_at, l4, at - l4)
    full, rest = divmod(payload_bytes, context.mss)
    sizes = [(payload_at + context.mss, full), (payload_at + rest, 1 if rest or not full else 0)]
    return Segmented(bytes(whole), header, sizes, full)


def with_checksum(frame: bytes, start: int, at: int, end: int) -> bytes:
    """The frame with a checksum of [start, end] at `at`; unchanged if these are outside of it (SDM §3.3.3.2)."""
    whole = bytearray(frame)
    try:
        offload.fill_checksum(whole, start, at, end + 1 if end and end < len(whole) else None)
    except offload.OffloadError:
        return frame
    return bytes(whole)


def owe_checksum(frame: bytes, context: Context, shift: int) -> tuple[bytes, bytes]:
    """Leave the transport's checksum to the receiver if a virtio_net_hdr can describe it, otherwise fill it in."""
    start, at = context.start + shift, context.at + shift
    if context.end or at < start:
        return with_checksum(frame, start, at, context.end and context.end + shift), b""
    if at + 2 > len(frame):
        return frame, b""
    return frame, offload.encode(offload.GSO_NONE, 0, 0, start, at - start)

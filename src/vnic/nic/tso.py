"""What a transmit descriptor may ask for beyond its bytes: a VLAN tag, a checksum, TCP segmentation.

For NICs that find the headers in the frame themselves (Intel's have contexts: `intel/offloads.py`). The result is a
frame and the virtio_net_hdr with the pending work, which `net/offload.py` completes for a receiver without offloads.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from vnic.net import offload
from vnic.net.offload import OffloadError

_U16 = struct.Struct(">H")
VLAN_TYPE = b"\x81\x00"
ETH_BYTES = 14
TAG_BYTES = 4
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_TCP = 6
_TCP_BYTES = 20
_TCP_CHECKSUM_AT = 16
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options
_MAX_EXTENSIONS = 8


class Outgoing(NamedTuple):
    """A frame as it goes onto the wire."""

    frame: bytes
    header: bytes = b""
    """The virtio_net_hdr."""
    segments: int = 1
    wire_bytes: int = 0
    """Of all segments together; 0: the frame's."""


def with_tag(frame: bytes, tci: int) -> bytes:
    return b"".join((frame[:12], VLAN_TYPE, _U16.pack(tci), frame[12:]))


def with_checksum(frame: bytes, start: int, at: int) -> Outgoing:
    """The checksum of all from `start` on is to be at `at`, where the driver left the pseudo-header's sum. Raises
    OffloadError."""
    if not ETH_BYTES <= start <= at <= len(frame) - 2:
        raise OffloadError(f"a checksum from {start} on at {at} of {len(frame)} bytes")
    return Outgoing(frame, offload.encode(offload.GSO_NONE, 0, 0, start, at - start))


def segmented(frame: bytes, mss: int) -> Outgoing:
    """TSO: lengths and sums are made those of the whole frame, as virtio has them. The frame's own headers say where
    the payload begins. Raises OffloadError."""
    l3 = ETH_BYTES + (TAG_BYTES if frame[12:14] == VLAN_TYPE else 0)
    kind = frame[l3 - 2 : l3]
    if kind == _IPV4:
        l4, pseudo = _ipv4(frame, l3)
    elif kind == _IPV6:
        l4, pseudo = _ipv6(frame, l3)
    else:
        raise OffloadError(f"segmentation of ethertype {kind.hex()}")
    if len(frame) < l4 + _TCP_BYTES:
        raise OffloadError(f"{len(frame)} bytes end in the TCP header")
    payload_at = l4 + (frame[l4 + 12] >> 4) * 4
    payload = len(frame) - payload_at
    if payload_at < l4 + _TCP_BYTES or payload <= 0 or len(frame) - l3 > 0xFFFF:
        raise OffloadError(f"segmentation of {payload} bytes")
    if not mss or payload > mss * offload.MAX_SEGMENTS:
        raise OffloadError(f"{payload} bytes in segments of {mss}")
    whole = bytearray(frame)
    gso = offload.GSO_TCPV6
    if kind == _IPV4:
        gso = offload.GSO_TCPV4
        _U16.pack_into(whole, l3 + 2, len(whole) - l3)
        _U16.pack_into(whole, l3 + 10, 0)
        offload.fill_checksum(whole, l3, l3 + 10, l4)
    else:
        _U16.pack_into(whole, l3 + 4, len(whole) - l3 - 40)
    _U16.pack_into(whole, l4 + _TCP_CHECKSUM_AT, (pseudo + len(whole) - l4) % 0xFFFF)
    segments = -(-payload // mss)
    return Outgoing(
        bytes(whole),
        offload.encode(gso, mss, payload_at, l4, _TCP_CHECKSUM_AT),
        segments,
        len(whole) + (segments - 1) * payload_at,
    )


def _ipv4(frame: bytes, l3: int) -> tuple[int, int]:
    """Where the TCP header is, and the sum of the pseudo-header without the length."""
    if len(frame) < l3 + 20 or frame[l3] >> 4 != 4 or frame[l3] & 15 < 5 or frame[l3 + 9] != _TCP:
        raise OffloadError("segmentation of what is no TCP over IPv4")
    return l3 + (frame[l3] & 15) * 4, offload.ones_sum(frame[l3 + 12 : l3 + 20]) + _TCP


def _ipv6(frame: bytes, l3: int) -> tuple[int, int]:
    if len(frame) < l3 + 40 or frame[l3] >> 4 != 6:
        raise OffloadError("segmentation of what is no IPv6")
    kind, at = frame[l3 + 6], l3 + 40
    for _ in range(_MAX_EXTENSIONS):
        if kind not in _EXTENSIONS or len(frame) < at + 8:
            break
        kind, at = frame[at], at + (frame[at + 1] + 1) * 8
    if kind != _TCP or len(frame) < at + _TCP_BYTES:
        raise OffloadError("segmentation of what is no TCP over IPv6")
    if at == l3 + 40:
        return at, offload.ones_sum(frame[l3 + 8 : l3 + 40]) + _TCP
    # A routing header may hold the address that counts: the driver left the sum without the length, as Linux does.
    return at, int(_U16.unpack_from(frame, at + _TCP_CHECKSUM_AT)[0])

"""Offloads of chips that find the headers of a frame themselves: IPv4, TCP and UDP checksums, TCP segmentation.

A transmit unit calls it with a whole frame. It returns the frame and a virtio_net_hdr with the work that is left for
the receiver; `net/offload.py` completes it for one without offload.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from vnic.net import offload

_ETH_BYTES: Final = 14
_IP_BYTES: Final = 20
_TCP: Final = 6
_UDP: Final = 17
_CHECKSUM_AT: Final = {_TCP: 16, _UDP: 6}
_TCP_BYTES: Final = 20
_UDP_BYTES: Final = 8
_IP_CHECKSUM_AT: Final = 10
_WORD: Final = struct.Struct(">H")


class Asked(NamedTuple):
    """What a descriptor asks for."""

    ip: bool = False
    tcp: bool = False
    udp: bool = False
    mss: int = 0
    """TCP data is cut into segments of so many bytes, each with all checksums."""


NOTHING: Final = Asked()


def offloaded(frame: bytes, asked: Asked, shift: int) -> tuple[bytes, bytes]:
    """The frame with what is asked for. One that is no whole IPv4 packet stays as it is. The header is for a frame in
    which `shift` bytes, its VLAN tag, are inserted later. Raises OffloadError for one that would become too many
    segments."""
    if asked == NOTHING or len(frame) < _ETH_BYTES + _IP_BYTES or frame[12:14] != b"\x08\x00":
        return frame, b""
    header, (total,) = (frame[_ETH_BYTES] & 15) * 4, _WORD.unpack_from(frame, _ETH_BYTES + 2)
    end = _ETH_BYTES + total
    if frame[_ETH_BYTES] >> 4 != 4 or not _IP_BYTES <= header <= total or end > len(frame):
        return frame, b""
    start, protocol = _ETH_BYTES + header, frame[_ETH_BYTES + 9]
    if asked.mss:
        return _segmented(frame[:end], start, asked.mss, shift) if protocol == _TCP else (frame, b"")
    whole = bytearray(frame)
    if asked.ip:
        _fill_ip_checksum(whole, start)
    wanted, least = {_TCP: (asked.tcp, _TCP_BYTES), _UDP: (asked.udp, _UDP_BYTES)}.get(protocol, (False, 0))
    if not wanted or end - start < least:
        return bytes(whole), b""
    at = _CHECKSUM_AT[protocol]
    _fill_pseudo_header(whole, start, end, at)
    if end < len(whole):  # what pads the frame is not part of the sum
        offload.fill_checksum(whole, start, start + at, end)
        return bytes(whole), b""
    return bytes(whole), offload.encode(offload.GSO_NONE, 0, 0, start + shift, at)


def _segmented(frame: bytes, start: int, mss: int, shift: int) -> tuple[bytes, bytes]:
    """A TCP packet that its receiver cuts into segments of `mss` bytes."""
    data_offset = (frame[start + 12] >> 4) * 4 if len(frame) >= start + _TCP_BYTES else 0
    payload_at = start + data_offset
    if data_offset < _TCP_BYTES or payload_at > len(frame):
        return frame, b""
    if len(frame) - payload_at > mss * offload.MAX_SEGMENTS:
        raise offload.OffloadError(f"{len(frame)} bytes would be more than {offload.MAX_SEGMENTS} segments")
    whole = bytearray(frame)
    _fill_ip_checksum(whole, start)
    at = _CHECKSUM_AT[_TCP]
    _fill_pseudo_header(whole, start, len(frame), at)
    return bytes(whole), offload.encode(offload.GSO_TCPV4, mss, payload_at + shift, start + shift, at)


def _fill_ip_checksum(frame: bytearray, end: int) -> None:
    at = _ETH_BYTES + _IP_CHECKSUM_AT
    _WORD.pack_into(frame, at, 0)
    offload.fill_checksum(frame, _ETH_BYTES, at, end)


def _fill_pseudo_header(frame: bytearray, start: int, end: int, at: int) -> None:
    """The sum of addresses, protocol and length where the checksum goes: what the driver left there does not count."""
    addresses = offload.ones_sum(frame[_ETH_BYTES + 12 : _ETH_BYTES + 20])
    _WORD.pack_into(frame, start + at, (addresses + frame[_ETH_BYTES + 9] + end - start) % 0xFFFF)

"""The headers of a received frame, and whether its checksums are right: what a NIC reports in a receive descriptor.

Receive units call `headers` once for each frame whose descriptor tells of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vnic.net.offload import Frame, ones_sum

TCP: Final = 6
UDP: Final = 17

_ETH_BYTES = 14
_TAG_BYTES = 4
_VLAN_TYPES = (0x8100, 0x88A8)
_MAX_TAGS = 2
_IPV4, _IPV6 = 0x0800, 0x86DD
_IPV6_BYTES = 40
_MAX_EXTENSIONS = 8
"""More extension headers than any packet has; the rest is payload of an unknown protocol."""
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_OPTION_PAD1, _OPTION_HOME_ADDRESS = 0, 201
_ROUTING_TYPE_2 = 2
_TCP_BYTES, _UDP_BYTES = 20, 8


class Headers(NamedTuple):
    """Byte offsets into the frame; 0 where there is no such header."""

    version: int = 0
    """4 or 6; 0 for a frame that holds no IP packet."""
    l3: int = 0
    l4: int = 0
    """Behind the IP header and all extension headers."""
    end: int = 0
    """The end of the IP packet; the rest of the frame is padding."""
    transport: int = 0
    """TCP or UDP, where its header is here in full; never for a fragment."""
    payload: int = 0
    """Behind the header of TCP or UDP."""
    fragment: bool = False
    extensions: bool = False
    """There are IPv6 extension headers."""
    home: int = 0
    """Where the home address of a mobile node is (RFC 6275 §6.3), which stands for the source."""
    routed: int = 0
    """Where the address of a routing header of type 2 is (RFC 6275 §6.4), which stands for the destination."""


_NONE = Headers()


def headers(frame: Frame) -> Headers:
    """Find the headers. What is malformed or cut off counts as not there."""
    l3 = _ETH_BYTES
    if len(frame) < l3:
        return _NONE
    kind = frame[12] << 8 | frame[13]
    for _ in range(_MAX_TAGS):
        if kind not in _VLAN_TYPES or len(frame) < l3 + _TAG_BYTES:
            break
        kind = frame[l3 + 2] << 8 | frame[l3 + 3]
        l3 += _TAG_BYTES
    if kind == _IPV4:
        return _ipv4(frame, l3)
    return _ipv6(frame, l3) if kind == _IPV6 else _NONE


def _ipv4(frame: Frame, l3: int) -> Headers:
    if len(frame) < l3 + 20 or frame[l3] >> 4 != 4:
        return _NONE
    l4 = l3 + (frame[l3] & 15) * 4
    end = l3 + (frame[l3 + 2] << 8 | frame[l3 + 3])
    if not l3 + 20 <= l4 <= end <= len(frame):
        return _NONE
    fragment = bool((frame[l3 + 6] << 8 | frame[l3 + 7]) & 0x3FFF)
    found = Headers(4, l3, l4, end, fragment=fragment)
    return found if fragment else _with_transport(frame, found, frame[l3 + 9])


def _ipv6(frame: Frame, l3: int) -> Headers:
    l4 = l3 + _IPV6_BYTES
    if len(frame) < l4 or frame[l3] >> 4 != 6:
        return _NONE
    end = l4 + (frame[l3 + 4] << 8 | frame[l3 + 5])
    if end > len(frame):
        return _NONE
    kind = frame[l3 + 6]
    fragment = extensions = False
    home = routed = 0
    for _ in range(_MAX_EXTENSIONS):
        if kind not in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION) or l4 + 8 > end:
            break
        size = 8 if kind == _FRAGMENT else 8 * (frame[l4 + 1] + 1)
        if l4 + size > end:
            break
        if kind == _FRAGMENT:
            fragment = bool((frame[l4 + 2] << 8 | frame[l4 + 3]) & 0xFFF9)
        elif kind == _DESTINATION:
            home = home or _home_address(frame, l4, size)
        elif kind == _ROUTING and frame[l4 + 2] == _ROUTING_TYPE_2 and size == 24:
            routed = l4 + 8
        extensions = True
        kind = frame[l4]
        l4 += size
    found = Headers(6, l3, l4, end, 0, 0, fragment, extensions, home, routed)
    return found if fragment else _with_transport(frame, found, kind)


def _home_address(frame: Frame, at: int, size: int) -> int:
    """Where the address of a home address option is in destination options; 0 if there is none."""
    end, at = at + size, at + 2
    while at < end:
        if frame[at] == _OPTION_PAD1:
            at += 1
            continue
        if at + 2 > end:
            break
        if frame[at] == _OPTION_HOME_ADDRESS and frame[at + 1] == 16 and at + 18 <= end:
            return at + 2
        at += 2 + frame[at + 1]
    return 0


def _with_transport(frame: Frame, found: Headers, protocol: int) -> Headers:
    l4 = found.l4
    if protocol == UDP and l4 + _UDP_BYTES <= found.end:
        return found._replace(transport=UDP, payload=l4 + _UDP_BYTES)
    if protocol == TCP and l4 + _TCP_BYTES <= found.end:
        payload = l4 + (frame[l4 + 12] >> 4) * 4
        if l4 + _TCP_BYTES <= payload <= found.end:
            return found._replace(transport=TCP, payload=payload)
    return found


def ip_checksum_right(frame: Frame, found: Headers) -> bool | None:
    """Of the IPv4 header; None where there is none."""
    if found.version != 4:
        return None
    return ones_sum(frame[found.l3 : found.l4]) == 0


def transport_checksum_right(frame: Frame, found: Headers) -> bool | None:
    """Of TCP or UDP; None where there is none, or UDP over IPv4 goes without."""
    if not found.transport:
        return None
    l3, l4, end = found.l3, found.l4, found.end
    if found.transport == UDP:
        if not frame[l4 + 6] | frame[l4 + 7]:
            return None if found.version == 4 else False
        end = l4 + (frame[l4 + 4] << 8 | frame[l4 + 5])
        if not l4 + _UDP_BYTES <= end <= found.end:
            return False
    if found.version == 4:
        addresses = frame[l3 + 12 : l3 + 20]
    else:
        # A packet on its way counts the final destination (RFC 8200 §8.1); home addresses count as the source.
        source = found.home or l3 + 8
        destination = found.routed or l3 + 24
        addresses = bytes(frame[source : source + 16]) + bytes(frame[destination : destination + 16])
    total = ones_sum(addresses) + found.transport + end - l4 + ones_sum(frame[l4:end])
    return total % 0xFFFF == 0

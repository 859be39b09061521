"""Receive side scaling: the Toeplitz hash of a packet's flow, by which a NIC chooses the receive queue.

Microsoft's "Introduction to Receive Side Scaling" defines both; Intel's NICs have the key and the table in registers.
"""

from __future__ import annotations

from functools import lru_cache

from vnic.net.offload import Frame
from vnic.nic.packet import Headers

KEY_BYTES = 40
_HASH_BITS = 32


@lru_cache(maxsize=4096)
def toeplitz(key: bytes, flow: bytes) -> int:
    """The 32-bit hash: for each bit of the flow that is set, the 32 bits of the key from that place on. Flows are few,
    and packets many, so that results are kept."""
    left = int.from_bytes(flow, "big")
    whole = int.from_bytes(key, "big")
    # The lowest bit of the flow goes with the bits that far behind the key's start.
    offset = 8 * (len(key) - len(flow)) + 1 - _HASH_BITS
    value = 0
    while left:
        bit = left & -left
        value ^= whole >> offset + bit.bit_length() - 1
        left ^= bit
    return value & 0xFFFFFFFF


def flow(frame: Frame, found: Headers, *, ports: bool, extended: bool = False) -> bytes:
    """What is hashed of an IP packet: both addresses, and the ports behind them. `extended`: the addresses that IPv6
    extension headers have in place of those in the IPv6 header."""
    l3 = found.l3
    if found.version == 4:
        addresses = bytes(frame[l3 + 12 : l3 + 20])
    elif extended and (found.home or found.routed):
        source, destination = found.home or l3 + 8, found.routed or l3 + 24
        addresses = bytes(frame[source : source + 16]) + bytes(frame[destination : destination + 16])
    else:
        addresses = bytes(frame[l3 + 8 : l3 + 40])
    return addresses + bytes(frame[found.l4 : found.l4 + 4]) if ports else addresses

"""VXLAN headers (RFC 7348 section 5), for the netdev `tunnel`."""

from __future__ import annotations

from typing import Final

HEADER_BYTES: Final = 8
PORT: Final = 4789
MAX_VNI: Final = (1 << 24) - 1
_VNI_VALID: Final = 0x08


class VxlanError(Exception):
    """The datagram has no VXLAN header with a VNI."""


def header(vni: int) -> bytes:
    """The 8 bytes before a frame."""
    return bytes([_VNI_VALID, 0, 0, 0]) + (vni << 8).to_bytes(4, "big")


def vni_of(datagram: bytes) -> int:
    """The VNI. Reserved bits are ignored, as the RFC demands. Raises VxlanError."""
    if len(datagram) < HEADER_BYTES or not datagram[0] & _VNI_VALID:
        raise VxlanError
    return int.from_bytes(datagram[4:7], "big")

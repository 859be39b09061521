"""Continuity check messages (CCM): their Ethernet frames, their fields, and the TLV with an interface's status.

`mep` makes and judges them. The layout is that of IEEE 802.1Q clause 21.6.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, Literal

import msgspec

ETHERTYPE: Final = 0x8902
ETHERNET_BYTES: Final = 14
MAID_BYTES: Final = 48
OPCODE_CCM: Final = 1
FIRST_TLV_OFFSET: Final = 70
"""From the end of the common header to the first TLV (§21.6.1)."""
MIN_PDU_BYTES: Final = 4 + FIRST_TLV_OFFSET
MAX_LEVEL: Final = 7
MEP_IDS: Final = range(1, 8192)
INTERVALS_US: Final = {
    1: 3_333,
    2: 10_000,
    3: 100_000,
    4: 1_000_000,
    5: 10_000_000,
    6: 60_000_000,
    7: 600_000_000,
}
"""By the code in the flags (table 21-16); the first is 300 a second."""

_RDI: Final = 0x80
_INTERVAL: Final = 0x07
_HEAD: Final = struct.Struct(
    ">BBBBIH"
)  # level and version, opcode, flags, first TLV offset, sequence, MEP id
_TLV: Final = struct.Struct(">BH")  # type, length
_END_TLV: Final = 0
_INTERFACE_STATUS_TLV: Final = 4
_ITU_BYTES: Final = 16
"""Y.1731's counters, which are zero."""
assert _HEAD.size + MAID_BYTES + _ITU_BYTES == MIN_PDU_BYTES


class CcmError(Exception):
    """The PDU is malformed."""


StatusWord = Literal["up", "down", "testing", "unknown", "dormant", "notPresent", "lowerLayerDown"]


class InterfaceStatus(enum.IntEnum):
    """The value of an Interface Status TLV (§21.5.5), which is RFC 2863's ifOperStatus."""

    UP = 1
    DOWN = 2
    TESTING = 3
    UNKNOWN = 4
    DORMANT = 5
    NOT_PRESENT = 6
    LOWER_LAYER_DOWN = 7

    @property
    def word(self) -> StatusWord:
        """RFC 2863's name."""
        return _WORDS[self]


_WORDS: Final[dict[InterfaceStatus, StatusWord]] = {
    InterfaceStatus.UP: "up",
    InterfaceStatus.DOWN: "down",
    InterfaceStatus.TESTING: "testing",
    InterfaceStatus.UNKNOWN: "unknown",
    InterfaceStatus.DORMANT: "dormant",
    InterfaceStatus.NOT_PRESENT: "notPresent",
    InterfaceStatus.LOWER_LAYER_DOWN: "lowerLayerDown",
}


class Ccm(msgspec.Struct, frozen=True, kw_only=True):
    """One CCM. `interval` is a key of INTERVALS_US. A sender without sequence numbers has 0 in all of them."""

    level: int
    interval: int
    sequence: int
    mep: int
    maid: bytes
    rdi: bool = False
    """Remote defect indication: its sender hears nothing."""
    status: InterfaceStatus | None = None

    def pack(self) -> bytes:
        """The PDU, which follows the EtherType."""
        flags = (_RDI if self.rdi else 0) | self.interval
        head = _HEAD.pack(self.level << 5, OPCODE_CCM, flags, FIRST_TLV_OFFSET, self.sequence, self.mep)
        tlvs = b"" if self.status is None else _TLV.pack(_INTERFACE_STATUS_TLV, 1) + bytes([self.status])
        return head + self.maid + bytes(_ITU_BYTES) + tlvs + bytes([_END_TLV])

    @classmethod
    def parse(cls, pdu: bytes) -> Ccm:
        """Raises CcmError. The version is ignored, as are TLVs of other types (§20.51); the opcode is not looked at."""
        if len(pdu) < MIN_PDU_BYTES:
            raise CcmError(f"{len(pdu)} bytes, a CCM has at least {MIN_PDU_BYTES}")
        level, _, flags, offset, sequence, mep = _HEAD.unpack_from(pdu)
        if offset < FIRST_TLV_OFFSET or 4 + offset > len(pdu):
            raise CcmError(f"a first TLV offset of {offset}")
        if flags & _INTERVAL not in INTERVALS_US:
            raise CcmError("an interval of 0")
        return cls(
            level=level >> 5,
            interval=flags & _INTERVAL,
            sequence=sequence,
            mep=mep,
            maid=bytes(pdu[_HEAD.size : _HEAD.size + MAID_BYTES]),
            rdi=bool(flags & _RDI),
            status=_find_status(pdu, 4 + offset),
        )


def _find_status(pdu: bytes, at: int) -> InterfaceStatus | None:
    """The Interface Status TLV, the last one if there are more."""
    status: InterfaceStatus | None = None
    while at < len(pdu) and pdu[at] != _END_TLV:
        if at + _TLV.size > len(pdu):
            raise CcmError("a TLV without its length")
        kind, length = _TLV.unpack_from(pdu, at)
        at += _TLV.size
        if at + length > len(pdu):
            raise CcmError(f"a TLV of {length} bytes that runs over the end")
        if kind == _INTERFACE_STATUS_TLV:
            if length != 1 or pdu[at] not in _WORDS:
                raise CcmError("an Interface Status TLV without a status")
            status = InterfaceStatus(pdu[at])
        at += length
    return status


def maid(ma: str, md: str | None = None) -> bytes:
    """The maintenance association identifier of two names (§21.6.5): character strings, `md` may be missing.

    ValueError if the names do not fit.
    """
    domain = b"\x01" if md is None else _name(4, md)
    whole = domain + _name(2, ma)
    if len(whole) > MAID_BYTES:
        raise ValueError(f"{len(whole)} bytes of names, {MAID_BYTES} are there")
    return whole.ljust(MAID_BYTES, b"\0")


def _name(form: int, text: str) -> bytes:
    name = text.encode()
    if not 0 < len(name) < MAID_BYTES:
        raise ValueError(f"a name of {len(name)} bytes")
    return bytes([form, len(name)]) + name


def ethernet_header(level: int, source: bytes) -> bytes:
    """What stands before the PDU: the group address of the level's CCMs (table 8-13), `source`, the EtherType."""
    return bytes([0x01, 0x80, 0xC2, 0x00, 0x00, 0x30 | level]) + source + ETHERTYPE.to_bytes(2, "big")


def level_of(frame: bytes | bytearray | memoryview) -> int | None:
    """The level of an untagged continuity frame; None for any other frame, also one with a VLAN tag, which belongs to
    the maintenance points of its VLAN."""
    if len(frame) <= ETHERNET_BYTES or frame[12] != ETHERTYPE >> 8 or frame[13] != ETHERTYPE & 0xFF:
        return None
    return frame[ETHERNET_BYTES] >> 5

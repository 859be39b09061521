"""The receive filter: modes, the NIC's address, multicast addresses, VLANs (Vmxnet3_RxFilterConf).

The driver writes its tables into the shared area and has them read by commands.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.nic.tso import VLAN_TYPE
from vnic.nic.vmxnet3 import regs as r
from vnic.record import U32, Record, require

_BROADCAST = b"\xff" * 6
_ADDRESS_BYTES = 6
_UNTAGGED = (0, 0xFFF)
VLAN_BYTES = 4096 // 8


class FilterRecord(Record, frozen=True):
    mode: U32 = 0
    strip: bool = False
    """Whether the tag goes into the completion instead of the frame."""
    vlans: Annotated[bytes, msgspec.Meta(min_length=VLAN_BYTES, max_length=VLAN_BYTES)] = bytes(VLAN_BYTES)
    """A bit for each VLAN id."""
    groups: Annotated[bytes, msgspec.Meta(max_length=0xFFFF)] = b""
    """The multicast addresses, one after the other."""

    def check_fields(self) -> None:
        rest = len(self.groups) % _ADDRESS_BYTES
        require(not rest, "groups", f"has {len(self.groups)} bytes")


class RxFilter:
    def __init__(self) -> None:
        self.set(FilterRecord())

    def set(self, record: FilterRecord) -> None:
        self.record, groups = record, record.groups
        self._groups = frozenset(
            groups[at : at + _ADDRESS_BYTES] for at in range(0, len(groups), _ADDRESS_BYTES)
        )

    def accepts(self, frame: bytes, mac: bytes) -> bool:
        """QEMU's vmxnet3_rx_filter_may_indicate; only tags of 802.1Q count."""
        mode = self.record.mode
        if mode & r.RXM_PROMISC:
            return True
        if frame[12:14] == VLAN_TYPE:
            vid = (frame[14] << 8 | frame[15]) & 0xFFF
            if vid not in _UNTAGGED and not self.record.vlans[vid >> 3] >> (vid & 7) & 1:
                return False
        destination = frame[:6]
        if not destination[0] & 1:
            return bool(mode & r.RXM_UCAST) and destination == mac
        if destination == _BROADCAST:
            return bool(mode & r.RXM_BCAST)
        known = mode & r.RXM_MCAST and destination in self._groups
        return bool(mode & r.RXM_ALL_MULTI or known)

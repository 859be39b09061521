"""The receive filter: modes, the NIC's address, multicast addresses, VLANs (Vmxnet3_RxFilterConf).

The driver writes its tables into the shared area and has them read by commands.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.nic.tso import VLAN_TYPE
from vnic.nic.vmxnet3 import regs as r
from vnic.nic.vmxnet3.shared import VLAN_BYTES
from vnic.record import U32, Record, require

_BROADCAST = b"\xff" * 6
_ADDRESS_BYTES = 6
_UNTAGGED = (0, 0xFFF)


class FilterRecord(Record, frozen=True):
    mode: U32
    strip: bool
    vlans: Annotated[bytes, msgspec.Meta(min_length=VLAN_BYTES, max_length=VLAN_BYTES)]
    groups: Annotated[bytes, msgspec.Meta(max_length=0xFFFF)]

    def check_fields(self) -> None:
        rest = len(self.groups) % _ADDRESS_BYTES
        require(not rest, "groups", f"has {len(self.groups)} bytes")


class RxFilter:
    """`accepts` tells whether the guest gets a frame."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.mode = 0
        self.strip = False
        """Whether the tag goes into the completion instead of the frame."""
        self.vlans = bytes(VLAN_BYTES)
        self.set_groups(b"")

    def set_groups(self, groups: bytes) -> None:
        self._groups = groups
        self._set = frozenset(
            groups[at : at + _ADDRESS_BYTES] for at in range(0, len(groups), _ADDRESS_BYTES)
        )

    def save(self) -> FilterRecord:
        return FilterRecord(mode=self.mode, strip=self.strip, vlans=self.vlans, groups=self._groups)

    def restore(self, record: FilterRecord) -> None:
        self.mode, self.strip, self.vlans = record.mode, record.strip, record.vlans
        self.set_groups(record.groups)

    def accepts(self, frame: bytes, mac: bytes) -> bool:
        """QEMU's vmxnet3_rx_filter_may_indicate; only tags of 802.1Q count."""
        mode = self.mode
        if mode & r.RXM_PROMISC:
            return True
        if frame[12:14] == VLAN_TYPE and not self._knows_vlan(frame[14] << 8 | frame[15]):
            return False
        destination = frame[:6]
        if not destination[0] & 1:
            return bool(mode & r.RXM_UCAST) and destination == mac
        if destination == _BROADCAST:
            return bool(mode & r.RXM_BCAST)
        if mode & r.RXM_ALL_MULTI:
            return True
        return bool(mode & r.RXM_MCAST) and destination in self._set

    def _knows_vlan(self, tci: int) -> bool:
        vid = tci & 0xFFF
        return vid in _UNTAGGED or bool(self.vlans[vid >> 3] >> (vid & 7) & 1)

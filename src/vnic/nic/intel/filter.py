"""The receive filter: receive addresses, multicast and VLAN tables, promiscuous modes (SDM §3.2.1, §13.5).

The receive unit calls it for each frame.
"""

from __future__ import annotations

from collections.abc import Sequence

from vnic.nic.intel import regs

# RCTL, SDM §13.4.22
RCTL_UPE = 1 << 3
RCTL_MPE = 1 << 4
RCTL_BAM = 1 << 15
RCTL_VFE = 1 << 18
_RCTL_MO_SHIFT = 12
_HASH_SHIFTS = (4, 3, 2, 0)
"""Which 12 of the last 16 address bits the multicast table is looked up by, for each value of RCTL.MO."""
ADDRESS_REGISTERS = range(regs.RA, regs.RA + 4 * regs.RA_COUNT, 4)
"""RAL and RAH, in turn."""
_BROADCAST = b"\xff" * 6


class AddressFilter:
    """Reads the tables from the register values; `addresses_changed` follows a write to RAL or RAH."""

    def __init__(self, values: dict[int, int], registers: Sequence[int] = ADDRESS_REGISTERS) -> None:
        """`registers` are the chip's RAL and RAH, in turn."""
        self._values = values
        self._registers = registers
        self._addresses: frozenset[bytes] = frozenset()

    def addresses_changed(self) -> None:
        found = []
        for low in self._registers[::2]:
            high = self._values.get(low + 4, 0)
            if high & regs.RAH_AV:
                address = self._values.get(low, 0) | (high & 0xFFFF) << 32
                found.append(address.to_bytes(6, "little"))
        self._addresses = frozenset(found)

    def accepts(self, destination: bytes, rctl: int) -> bool:
        """By address: promiscuity, then the exact addresses, then the multicast table."""
        multicast = destination[0] & 1
        if multicast:
            if rctl & (RCTL_BAM if destination == _BROADCAST else RCTL_MPE):
                return True
        elif rctl & RCTL_UPE:
            return True
        if destination in self._addresses:
            return True
        if not multicast:
            return False
        shift = _HASH_SHIFTS[rctl >> _RCTL_MO_SHIFT & 3]
        key = (destination[5] << 8 | destination[4]) >> shift & 0xFFF
        return bool(self._values.get(regs.MTA + (key >> 5) * 4, 0) >> (key & 31) & 1)

    def accepts_vlan(self, tci: int) -> bool:
        """By the VLAN id, where RCTL.VFE is set."""
        vid = tci & 0xFFF
        return bool(self._values.get(regs.VFTA + (vid >> 5) * 4, 0) >> (vid & 31) & 1)

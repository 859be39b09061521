"""The link as drivers of the 21143 see it: in the PHY on the MII, or in the chip's own serial interface (SIA).

Linux's driver finds the PHY that the SROM names and polls its BMSR: each minute while the link is up, each 3 s while it
is down. A driver of the SIA reads CSR12, and gets interrupts of it. "Seen" is a read of the one that CSR6 selects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vnic.nic.tulip import registers as r

PHY: Final = 1
"""The PHY's address on the MII."""
BMSR: Final = 1
_BMSR_LINK: Final = 0x0024
"""Link status, and that a negotiation is complete."""
PHY_RESET: Final = (0x3100, 0x702C, 0x7810, 0x0000, 0x0501, 0x4181, *[0] * 10, 0x0003, 0, 0x0001, *[0] * 13)
"""BMSR is as guests read it from QEMU's, whose bus loses the upper bit: 100BASE-T4 would keep Linux from taking it for
a PHY."""
_PHY_WRITABLE: Final = {2: 0xFFFF, 3: 0xFFFF, 4: 0xC01F, 5: 0xFFFF, 6: 0xFFFF}
assert len(PHY_RESET) == 32


class Link:
    """The wire, and what both interfaces show of it. `seen` is called with what a guest reads."""

    def __init__(self, csr: list[int], seen: Callable[[bool], None]) -> None:
        self.up = False
        self.phy = list(PHY_RESET)
        self._csr = csr
        self._seen = seen

    @property
    def is_mii(self) -> bool:
        """CSR6 selects the port of the MII, and not the symbols of 100BASE-TX beside it."""
        return bool(self._csr[6] & r.PS) and not self._csr[6] & r.PCS

    def read_phy(self, phy: int, register: int) -> int:
        if phy != PHY:
            return 0xFFFF  # there is none
        value = self.phy[register]
        if register == BMSR:
            self._seen(self.up)
            return value if self.up else value & ~_BMSR_LINK
        return value

    def write_phy(self, phy: int, register: int, value: int) -> None:
        mask = _PHY_WRITABLE.get(register, 0) if phy == PHY else 0
        self.phy[register] = self.phy[register] & ~mask | value & mask

    def read_sia(self) -> int:
        """CSR12."""
        if not self.is_mii:
            self._seen(self.up)
        return r.ANS_GOOD if self.up else r.ANS_DETECT | r.LS10 | r.LS100

    def changed(self) -> int:
        """The bits of CSR5 that tell of the change: none while the SIA is not in use."""
        if self.is_mii or not self._csr[13] & r.SRL:
            return 0
        if self._csr[6] & r.PS:
            return r.LC  # the symbols of 100BASE-TX
        return r.LNP_ANC if self.up else r.LNF

    def loses_frames(self) -> bool:
        """Whether a frame that is sent finds no carrier; full duplex does not look for one."""
        return not self.up and not self._csr[6] & (r.FD | r.OM)

"""The link as the guest sees it: the PHY's registers and the media status (datasheet §6.20, §6.24 to §6.29).

Drivers read the link from BMSR (Linux's 8139cp and 8139too, by mii_check_media, after the interrupt LinkChg), or from
MSR's inverted bit (iPXE, Windows): a read of either with the new state is what "the guest saw it" means.

QEMU's rtl8139_set_link_status: the bit changes at once, and every call sets LinkChg, also for a repeated state. There
is no negotiation that takes time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vnic.record import U16, Record, require

_BMSR_LINK: Final = 0x0004
_BMSR_FIXED: Final = 0x7829  # all modes of 10 and 100 Mb/s, negotiation able and done, extended registers
_BMSR_WRITABLE: Final = 0x00C0
_BMCR_RESET: Final = 0x8000
_BMCR_NEGOTIATE: Final = 0x1000
_BMCR_WRITABLE: Final = 0x0200  # restart negotiation; speed, duplex and negotiation are fixed
_ALL_MODES: Final = 0x05E1
_MSR_FIXED: Final = 0xD0
_MSR_LINK_DOWN: Final = 0x04


class LinkRecord(Record, frozen=True):
    up: bool
    control: U16
    status: U16
    """The bits of BMSR that a guest can write."""
    advertised: U16
    expansion: U16

    def check_fields(self) -> None:
        require(self.control & ~_BMCR_WRITABLE == _BMCR_NEGOTIATE, "control", f"is {self.control:#x}")
        require(not self.status & ~_BMSR_WRITABLE, "status", f"is {self.status:#x}")


class Link:
    """BMCR, BMSR, ANAR, ANLPAR, ANER and MSR. `seen(up)` is called at each read of the link."""

    def __init__(self, seen: Callable[[bool], None]) -> None:
        self._seen = seen
        self.up = False
        self.reset()

    def reset(self) -> None:
        """The link stays as it is."""
        self.control = _BMCR_NEGOTIATE
        self._reset_phy()

    def _reset_phy(self) -> None:
        self._status = 0
        self.advertised = _ALL_MODES
        self.expansion = 0x0001

    @property
    def partner(self) -> int:
        """ANLPAR."""
        return _ALL_MODES

    def read_status(self) -> int:
        """BMSR."""
        self._seen(self.up)
        return _BMSR_FIXED | self._status | _BMSR_LINK * self.up

    def read_media(self) -> int:
        """MSR."""
        self._seen(self.up)
        return _MSR_FIXED | _MSR_LINK_DOWN * (not self.up)

    def write_control(self, value: int) -> None:
        """BMCR."""
        if value & _BMCR_RESET:
            self._reset_phy()
        self.control = _BMCR_NEGOTIATE | value & _BMCR_WRITABLE

    def write_status(self, value: int) -> None:
        self._status = value & _BMSR_WRITABLE

    def write_advertised(self, value: int) -> None:
        self.advertised = value

    def write_expansion(self, value: int) -> None:
        self.expansion = value

    def save(self) -> LinkRecord:
        return LinkRecord(
            up=self.up,
            control=self.control,
            status=self._status,
            advertised=self.advertised,
            expansion=self.expansion,
        )

    def restore(self, record: LinkRecord) -> None:
        self.up, self.control, self._status = record.up, record.control, record.status
        self.advertised, self.expansion = record.advertised, record.expansion

"""The PHY (a Marvell 88E1011, or the 82544's 88E1000): its MII registers, reached through MDIC.

`link.py` tells it of the link; the guest reads that in BMSR and configures negotiation in BMCR.
"""

from __future__ import annotations

from typing import NamedTuple

# Registers, IEEE 802.3 §22.2.4 and SDM §13.4.7.1
BMCR, BMSR, PHYID1, PHYID2, ANAR, ANLPAR, ANER = 0, 1, 2, 3, 4, 5, 6
CTRL1000, STAT1000, ESTATUS = 9, 10, 15
PSCR, PSSR, INT_ENABLE, INT_STATUS, EPSCR, RX_ERRORS = 16, 17, 18, 19, 20, 21
PAGE_SELECT, PAGE_DATA = 29, 30

BMCR_RESET = 0x8000
BMCR_LOOPBACK = 0x4000
BMCR_AUTONEG = 0x1000
BMCR_POWER_DOWN = 0x0800
BMCR_RESTART = 0x0200
BMSR_LINK = 0x0004
BMSR_AUTONEG_DONE = 0x0020
ANLPAR_ACK = 0x4000
_STAT1000_RECEIVERS_OK = 0x3000
_PSSR_LINK_AND_RESOLVED = 0x0C00

PHY_ADDRESS = 1
PHY_ID1 = 0x0141  # Marvell

# MDIC, SDM §13.4.7
_MDIC_DATA = 0xFFFF
_MDIC_WRITE = 1 << 26
_MDIC_READ = 2 << 26
_MDIC_OP = 3 << 26
_MDIC_READY = 1 << 28
MDIC_INTERRUPT = 1 << 29
_MDIC_ERROR = 1 << 30


class MiiRegister(NamedTuple):
    name: str
    number: int
    reset: int
    mask: int = 0
    """The bits that a guest can write."""


MII_REGISTERS = (
    MiiRegister("BMCR", BMCR, 0x1140, 0xFFC0),  # 1000 Mb/s, full duplex, negotiation on
    MiiRegister("BMSR", BMSR, 0x7949),  # all of 10 and 100 Mb/s, extended status; the link's bits come on top
    MiiRegister("PHYID1", PHYID1, PHY_ID1),
    MiiRegister("PHYID2", PHYID2, 0),
    MiiRegister("ANAR", ANAR, 0x0DE1, 0xFFFF),  # 10 and 100 Mb/s, both pauses
    MiiRegister("ANLPAR", ANLPAR, 0x01E0),  # a partner of 10 and 100 Mb/s; 1000 stands in STAT1000
    MiiRegister("ANER", ANER, 0),
    MiiRegister("CTRL1000", CTRL1000, 0x0E00, 0xFFFF),
    MiiRegister("STAT1000", STAT1000, 0x0C00),
    MiiRegister("ESTATUS", ESTATUS, 0x3000),
    MiiRegister("PSCR", PSCR, 0x0360, 0xFFFF),
    MiiRegister("PSSR", PSSR, 0xA000),  # 1000 Mb/s, full duplex
    MiiRegister("INT_ENABLE", INT_ENABLE, 0, 0xFFFF),
    MiiRegister("INT_STATUS", INT_STATUS, 0),
    MiiRegister("EPSCR", EPSCR, 0x0D60, 0xFFFF),
    MiiRegister("RX_ERRORS", RX_ERRORS, 0),
    MiiRegister("PAGE_SELECT", PAGE_SELECT, 0, 0xFFFF),
    MiiRegister("PAGE_DATA", PAGE_DATA, 0, 0xFFFF),
)
_BY_NUMBER = {register.number: register for register in MII_REGISTERS}
_SELF_CLEARING = BMCR_RESET | BMCR_RESTART


class Phy:
    """The registers' values. Writes report what they ask for; `Link` carries it out."""

    def __init__(self, phy_id2: int) -> None:
        self._phy_id2 = phy_id2
        self._values: dict[int, int] = {}
        self.mdic = 0
        self.reset()

    def reset(self) -> None:
        """To the values after power-on; the link is down until `Link` says otherwise."""
        self._values = {register.number: register.reset for register in MII_REGISTERS}
        self._values[PHYID2] = self._phy_id2

    @property
    def autonegotiates(self) -> bool:
        return bool(self._values[BMCR] & BMCR_AUTONEG)

    @property
    def powered_down(self) -> bool:
        return bool(self._values[BMCR] & BMCR_POWER_DOWN)

    @property
    def loopback(self) -> bool:
        return bool(self._values[BMCR] & BMCR_LOOPBACK)

    def show_link(self, up: bool, negotiated: bool) -> None:
        """Set the bits of link and negotiation in every register that has them.

        BMSR is not latched low as a real PHY's: a guest that reads it once, late, must not take an old loss for
        the present state (so does QEMU).
        """
        values = self._values
        values[BMSR] = values[BMSR] & ~(BMSR_LINK | BMSR_AUTONEG_DONE)
        values[BMSR] |= (BMSR_LINK if up else 0) | (BMSR_AUTONEG_DONE if negotiated else 0)
        values[ANLPAR] = values[ANLPAR] & ~ANLPAR_ACK | (ANLPAR_ACK if negotiated else 0)
        values[STAT1000] = values[STAT1000] & ~_STAT1000_RECEIVERS_OK | (_STAT1000_RECEIVERS_OK if up else 0)
        values[PSSR] = values[PSSR] & ~_PSSR_LINK_AND_RESOLVED | (_PSSR_LINK_AND_RESOLVED if up else 0)

    def read(self, number: int) -> int | None:
        """A register; None where the PHY has none of that number."""
        return self._values.get(number)

    def write(self, number: int, value: int) -> int | None:
        """Write what is writable and return the value asked for, self-clearing bits included; None if nothing is."""
        register = _BY_NUMBER.get(number)
        if register is None or not register.mask:
            return None
        kept = value & register.mask
        self._values[number] = kept & ~_SELF_CLEARING if number == BMCR else kept
        return kept

    def access(self, value: int) -> tuple[int, int | None, bool]:
        """A write to MDIC: carry it out at once and latch the answer into `mdic`.

        Returns the register's number, the value written to it (None: it was a read, or refused), and whether the
        access was carried out.
        """
        number = value >> 16 & 31
        operation = value & _MDIC_OP
        written: int | None = None
        answer: int | None = None
        if value >> 21 & 31 == PHY_ADDRESS:
            if operation == _MDIC_READ:
                answer = self.read(number)
            elif operation == _MDIC_WRITE:
                answer = written = self.write(number, value & _MDIC_DATA)
        self.mdic = value & ~(_MDIC_READY | _MDIC_ERROR) | _MDIC_READY
        if answer is None:
            self.mdic |= _MDIC_ERROR
        elif operation == _MDIC_READ:
            self.mdic = self.mdic & ~_MDIC_DATA | answer
        return number, written, answer is not None

"""The PHY of an Intel NIC: its MII registers, reached through MDIC.

`link.py` sets its link state; the guest reads it in BMSR and configures negotiation in BMCR. The table of its
registers is the model's (`e1000/phy.py`); the standard registers are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vnic.record import U16, U32, Record, require

# Registers, IEEE 802.3 §22.2.4 and SDM §13.4.7.1
BMCR, BMSR, PHYID1, PHYID2, ANAR, ANLPAR, ANER = 0, 1, 2, 3, 4, 5, 6
CTRL1000, STAT1000, ESTATUS = 9, 10, 15

BMCR_RESET = 0x8000
BMCR_LOOPBACK = 0x4000
BMCR_AUTONEG = 0x1000
BMCR_POWER_DOWN = 0x0800
BMCR_RESTART = 0x0200
BMSR_NEGOTIATED = 0x0020

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


_PAGE_SHIFT = 5
_FIRST_PAGED = 16


def paged(page: int, number: int) -> int:
    """The number, in a model's table, of a register that is in a page other than 0."""
    return page << _PAGE_SHIFT | number


class MiiRegister(NamedTuple):
    name: str
    number: int
    reset: int
    mask: int = 0
    """The bits that a guest can write."""
    link: int = 0
    """The bits that are set while the link is up."""
    negotiated: int = 0
    """The bits that are set when a negotiation is done."""
    self_clearing: int = 0
    """The bits of `mask` that ask for something, and read as zero."""


MII_REGISTERS = (
    # 1000 Mb/s, full duplex, negotiation on
    MiiRegister("BMCR", BMCR, 0x1140, 0xFFC0, self_clearing=BMCR_RESET | BMCR_RESTART),
    # All of 10 and 100 Mb/s, extended status. It is not latched low as a real PHY's: a guest that reads it once, late,
    # must not take an old loss for the present state (so does QEMU).
    MiiRegister("BMSR", BMSR, 0x7949, link=0x0004, negotiated=BMSR_NEGOTIATED),
    MiiRegister("PHYID1", PHYID1, PHY_ID1),
    MiiRegister("PHYID2", PHYID2, 0),
    MiiRegister("ANAR", ANAR, 0x0DE1, 0xFFFF),  # 10 and 100 Mb/s, both pauses
    # A partner of 10 and 100 Mb/s, which acknowledges; 1000 is in STAT1000, with the receivers' state.
    MiiRegister("ANLPAR", ANLPAR, 0x01E0, negotiated=0x4000),
    MiiRegister("ANER", ANER, 0),
    MiiRegister("CTRL1000", CTRL1000, 0x0E00, 0xFFFF),
    MiiRegister("STAT1000", STAT1000, 0x0C00, link=0x3000),
    MiiRegister("ESTATUS", ESTATUS, 0x3000),
)
"""What all PHYs have (IEEE 802.3 §22.2.4); a model adds its own from 16 on."""


class PhyRecord(Record, frozen=True):
    values: list[U16]
    """In the order of the model's table."""
    mdic: U32


class Phy:
    """The registers' values. Writes report what they ask for; `Link` carries it out. `page_select` is the register that
    chooses the page of those from 16 on."""

    def __init__(
        self, registers: Sequence[MiiRegister], phy_id2: int, page_select: int | None = None
    ) -> None:
        self._page_select = page_select
        self._registers = {register.number: register for register in registers}
        self._showing_link = [register for register in registers if register.link | register.negotiated]
        self._phy_id2 = phy_id2
        self._values: dict[int, int] = {}
        self.mdic = 0
        self.reset()

    def reset(self) -> None:
        """Set the values after power-on; the link is down until `Link` changes it."""
        self._values = {number: register.reset for number, register in self._registers.items()}
        self._values[PHYID2] = self._phy_id2

    def save(self) -> PhyRecord:
        return PhyRecord(values=list(self._values.values()), mdic=self.mdic)

    def check(self, record: PhyRecord) -> None:
        """Raise RecordError unless it is a PHY's of this kind: what a guest cannot write has to be as it is here."""
        count = len(record.values)
        require(count == len(self._registers), "values", f"are {count}, not {len(self._registers)}")
        for at, (register, value) in enumerate(zip(self._registers.values(), record.values, strict=True)):
            fixed = self._phy_id2 if register.number == PHYID2 else register.reset
            surplus = (value ^ fixed) & ~(register.mask | register.link | register.negotiated)
            require(not surplus, f"values[{at}]", f"is {value:#x}, and {register.name} cannot be")

    def restore(self, record: PhyRecord) -> None:
        self.check(record)
        self._values = dict(zip(self._registers, record.values, strict=True))
        self.mdic = record.mdic

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
        """Set the bits of link and negotiation in every register that has them."""
        for register in self._showing_link:
            bits = (register.link if up else 0) | (register.negotiated if negotiated else 0)
            kept = self._values[register.number] & ~(register.link | register.negotiated)
            self._values[register.number] = kept | bits

    def read(self, number: int) -> int | None:
        """Read a register; None if the PHY does not have it."""
        return self._values.get(number)

    def write(self, number: int, value: int) -> int | None:
        """Write what is writable and return the value asked for, self-clearing bits included; None if nothing is."""
        register = self._registers.get(number)
        if register is None or not register.mask:
            return None
        kept = value & register.mask
        self._values[number] = kept & ~register.self_clearing
        return kept

    def _in_page(self, number: int) -> int:
        if self._page_select is None or number < _FIRST_PAGED or number == self._page_select:
            return number
        return paged(self._values[self._page_select], number)

    def access(self, value: int) -> tuple[int, int | None, bool]:
        """A write to MDIC: carry it out at once and latch the answer into `mdic`.

        Returns the register's number, the value written to it (None: it was a read, or refused), and whether the
        access was carried out.
        """
        number = self._in_page(value >> 16 & 31)
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

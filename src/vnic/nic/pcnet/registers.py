"""The registers of the Am79C970A: control and status (CSR), bus configuration (BCR), and the address pointer (RAP).

All of them, with the little that the chip keeps besides, are cells: each is a u64 in memory that outlives a killed
process, so that no record has to be saved for a packet or a register access. Names and numbers are the data sheet's
("User Accessible Registers"); what a real chip resets them to, QEMU does as well (hw/net/pcnet.c).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from vnic.record import require

CSRS: Final = 128
BCRS: Final = 32

# CSR0, controller status, from bit 0 on. Bits 8 to 14 are cleared by writing ones.
INIT, STRT, STOP, TDMD, TXON, RXON, INEA, INTR = (1 << bit for bit in range(8))
IDON, TINT, RINT, MERR, MISS, CERR, BABL, ERR = (1 << bit for bit in range(8, 16))
CSR0_CLEARED: Final = 0x7F00
_CSR0_INTERRUPTS: Final = 0x5F00
"""CERR does not interrupt."""
_CSR0_ERRORS: Final = 0x7800

# CSR3, interrupt masks and deferral
DXSUFLO: Final = 0x0040
BSWP: Final = 0x0004

# CSR4, test and features. Odd bits are interrupts; the bit below each masks it.
DPOLL, APAD_XMT, MFCO, UINTCMD, UINT, TXSTRT = 0x1000, 0x0800, 0x0200, 0x0080, 0x0040, 0x0008
CSR4_CLEARED: Final = 0x026A
_CSR4_MASKS: Final = 0x0115

# CSR5, extended control and interrupt. The bit below each interrupt enables it.
TOKINTD, LTINTEN, SINT, SPND = 0x8000, 0x4000, 0x0800, 0x0001
CSR5_CLEARED: Final = 0x0A90
_CSR5_ENABLES: Final = 0x0048
_CSR5_SYSTEM_ENABLES: Final = 0x0500
"""Of the interrupts that need no INEA: sleep and system error."""

# CSR15, mode, from bit 0 on
DRX, DTX, LOOP, DXMTFCS, FCOLL, DRTY, INTL, PORTSEL0 = (1 << bit for bit in range(8))
PORTSEL1, LRTTSEL, MENDECL, DAPC, DLNKTST, DRCVPA, DRCVBC, PROM = (1 << bit for bit in range(8, 16))

# Numbers of CSRs: of those that are longer, that of the lowest part
IADR, MASKS, FEATURES, EXTENDED, LENGTHS, LADRF, PADR, MODE = 1, 3, 4, 5, 6, 8, 12, 15
BADR, BADX, RCVRC, XMTRC, RCVRL, XMTRL, CHIP_ID, MISSC = 24, 30, 72, 74, 76, 78, 88, 112

# Numbers of BCRs; two bits of MC, one of BSBC, one of SWS
MC, LNKST, BSBC, SWS = 2, 4, 18, 20
TMAULOOP, APROMWE, DWIO, SSIZE32 = 0x4000, 0x0100, 0x0080, 0x0100

CSRS_OF_A_STOPPED_CHIP: Final = frozenset({1, 2, *range(8, 16), *range(18, 48), 72, 74, 76, 78, 112})
"""Those that a guest may write, while the chip is stopped or suspended."""
BCRS_WRITTEN: Final = frozenset({MC, 4, 5, 6, 7, 9, BSBC, 19, SWS, 22})

# The cells: the CSRs, then the BCRs
BCR: Final = CSRS
ALIASES: Final = {16: IADR, 17: IADR + 1, 58: BCR + SWS}
"""CSRs that are other registers, too."""
RAP: Final = BCR + BCRS
PENDING: Final = RAP + 1
"""What the guest asked for in CSR0 and waits until the initialization block is read: INIT, STRT."""
RX_SHOWN: Final = RAP + 2
TX_SHOWN: Final = RAP + 3
"""The first descriptor of a ring that may not be the guest's yet although the chip is done with it."""
DEMANDED: Final = RAP + 4
"""The driver demands transmission itself (TDMD), since the chip was started."""
COUNT: Final = RAP + 5

_SOFT_RESET: Final = {
    0: STOP, MASKS: 0, FEATURES: 0x0115, EXTENDED: 0, LENGTHS: 0, **dict.fromkeys(range(LADRF, LADRF + 4), 0),
    BADR: 0, BADR + 1: 0, BADX: 0, BADX + 1: 0, RCVRC: 1, XMTRC: 1, RCVRL: 1, XMTRL: 1, 80: 0x1410,
    CHIP_ID: 0x1003, CHIP_ID + 1: 0x0262, 100: 0x0200, 103: 0x0105, MISSC: 0,
    **dict.fromkeys(range(RAP, COUNT), 0),
}  # fmt: skip
"""The others stay, IADR among them: Linux initializes the chip anew without writing it again."""
_KEPT_MODE: Final = 0x21C4
_HARD_RESET: Final = {
    0: 0x0005, 1: 0x0005, MC: 0x0002, LNKST: 0x00C0, 5: 0x0084, 6: 0x0088, 7: 0x0090, BSBC: 0x9001, 19: 0x0002,
    SWS: 0x0200, 22: 0xFF06,
}  # fmt: skip


class Registers:
    """The cells by the registers' numbers. `cells[n]` is CSRn; BCRs begin at `BCR`."""

    def __init__(self) -> None:
        self.cells = memoryview(bytearray(8 * COUNT)).cast("Q")

    def hard_reset(self) -> None:
        """H_RESET, by the bus. CSR12 to CSR14 are the device's to set."""
        self.cells[MODE] = 0
        self.cells[BCR:RAP] = array("Q", [_HARD_RESET.get(at, 0) for at in range(BCRS)])
        self.soft_reset()

    def soft_reset(self) -> None:
        """S_RESET, by a read of the reset port: BCRs stay, and with them the width of accesses."""
        cells = self.cells
        for at, value in _SOFT_RESET.items():
            cells[at] = value
        cells[MODE] &= _KEPT_MODE

    def address(self, at: int) -> int:
        """The 32 bits of two registers."""
        return self.cells[at] | self.cells[at + 1] << 16

    def physical(self, address: int) -> int:
        """An address of 24 bits in the LANCE's style: CSR2 has the upper ones."""
        return address & 0xFFFFFF | (self.cells[IADR + 1] & 0xFF00) << 16

    @property
    def idle(self) -> bool:
        """Stopped or suspended: the guest may change what is set up."""
        return bool(self.cells[0] & STOP or self.cells[EXTENDED] & SPND)

    @property
    def interrupting(self) -> bool:
        """Whether a cause is pending and not masked, INEA aside: CSR0.INTR."""
        cells = self.cells
        features, extended = cells[FEATURES], cells[EXTENDED]
        return bool(
            cells[0] & ~cells[MASKS] & _CSR0_INTERRUPTS
            or features >> 1 & ~features & _CSR4_MASKS
            or extended >> 1 & extended & (_CSR5_ENABLES | _CSR5_SYSTEM_ENABLES)
            or features & UINT
        )

    @property
    def asserted(self) -> bool:
        """The level of the pin."""
        extended = self.cells[EXTENDED]
        needs_no_inea = extended >> 1 & extended & _CSR5_SYSTEM_ENABLES
        return bool(needs_no_inea) or bool(self.cells[0] & INEA and self.interrupting)

    def status(self) -> int:
        """What CSR0 reads as."""
        value: int = self.cells[0]
        return value | ERR * bool(value & _CSR0_ERRORS) | INTR * self.interrupting


def check(cells: Sequence[int], name: str) -> None:
    """Raise RecordError for cells that no chip has."""
    require(len(cells) == COUNT, name, f"are {len(cells)}, not {COUNT}")
    for at, value in enumerate(cells):
        most = {RAP: CSRS - 1, PENDING: INIT | STRT, DEMANDED: 1}.get(at, 0xFFFF)
        require(value <= most, f"{name}[{at}]", f"is more than {most:#x}")

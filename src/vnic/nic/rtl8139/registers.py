"""The registers of the RTL8139C+ as a table (datasheet §5 and §6)."""

from __future__ import annotations

from typing import Final

from vnic.nic.register_window import SizedRegister as Register

WINDOW_BYTES: Final = 0x100

IDR: Final = 0x00
MAR: Final = 0x08
TSD: Final = 0x10
DTCCR: Final = TSD  # in C+ mode
TSADR: Final = 0x20
TNPDS: Final = TSADR  # in C+ mode
RBSTART: Final = 0x30
CR: Final = 0x37
CAPR: Final = 0x38
CBR: Final = 0x3A
IMR: Final = 0x3C
ISR: Final = 0x3E
TCR: Final = 0x40
RCR: Final = 0x44
TCTR: Final = 0x48
MPC: Final = 0x4C
CR9346: Final = 0x50
CONFIG0: Final = 0x51
CONFIG1: Final = 0x52
TIMERINT: Final = 0x54
MSR: Final = 0x58
CONFIG3: Final = 0x59
CONFIG4: Final = 0x5A
HLTCLK: Final = 0x5B
MULINT: Final = 0x5C
RERID: Final = 0x5E
TSAD: Final = 0x60
BMCR: Final = 0x62
BMSR: Final = 0x64
ANAR: Final = 0x66
ANLPAR: Final = 0x68
ANER: Final = 0x6A
CSCR: Final = 0x74
CONFIG5: Final = 0xD8
TPPOLL: Final = 0xD9
CPCR: Final = 0xE0
RDSAR: Final = 0xE4
ETTHR: Final = 0xEC

CR_RESET: Final = 0x10
CR_RE: Final = 0x08
CR_TE: Final = 0x04
CR_BUFE: Final = 0x01
CPCR_RX_VLAN: Final = 0x40
CPCR_RX_CHECKSUM: Final = 0x20
CPCR_RX: Final = 0x02
CPCR_TX: Final = 0x01

# ISR and IMR
SYSTEM_ERROR: Final = 0x8000
TIMEOUT: Final = 0x4000
SOFTWARE: Final = 0x0100
LINK_CHANGE: Final = 0x0020
"""Also "packet underrun": QEMU's RxUnderrun, Linux's LinkChg."""
RX_OVERFLOW: Final = 0x0010
TX_ERROR: Final = 0x0008
TX_OK: Final = 0x0004
RX_OK: Final = 0x0001
ISR_BITS: Final = 0xE1FF

REVISION: Final = 0x20
"""From this revision on, drivers take the chip for an 8139C+."""


REGISTERS: Final = (
    *(Register(f"IDR{n}", IDR + n, 1, 0xFF) for n in range(6)),
    *(Register(f"MAR{n}", MAR + n, 1, 0xFF) for n in range(8)),
    *(Register(f"TSD{n}", TSD + 4 * n, 4) for n in range(4)),
    *(Register(f"TSAD{n}", TSADR + 4 * n, 4) for n in range(4)),
    Register("RBSTART", RBSTART, 4),
    Register("ERBCR", 0x34, 2),
    Register("ERSR", 0x36, 1),
    Register("CR", CR, 1),
    Register("CAPR", CAPR, 2),
    Register("CBR", CBR, 2),
    Register("IMR", IMR, 2),
    Register("ISR", ISR, 2),
    Register("TCR", TCR, 4, narrow=True),
    Register("RCR", RCR, 4),
    Register("TCTR", TCTR, 4),
    Register("MPC", MPC, 4),
    Register("9346CR", CR9346, 1),
    Register("CONFIG0", CONFIG0, 1, 0x07, locked=True),
    Register("CONFIG1", CONFIG1, 1, 0xF3, 0x0C, locked=True),
    Register("TIMERINT", TIMERINT, 4),
    Register("MSR", MSR, 1),
    Register("CONFIG3", CONFIG3, 1, 0x70, 0x01, locked=True),
    Register("CONFIG4", CONFIG4, 1, 0xF5, locked=True),
    Register("HLTCLK", HLTCLK, 1),
    Register("MULINT", MULINT, 2, 0x0FFF),
    Register("RERID", RERID, 1, reset=REVISION),
    Register("TSAD", TSAD, 2),
    Register("BMCR", BMCR, 2),
    Register("BMSR", BMSR, 2),
    Register("ANAR", ANAR, 2),
    Register("ANLPAR", ANLPAR, 2),
    Register("ANER", ANER, 2),
    Register("CSCR", CSCR, 2, reset=0x0340),  # no forced link, heart beat, link pulses
    Register("CONFIG5", CONFIG5, 1, 0x7F),
    Register("TPPOLL", TPPOLL, 1),
    Register("CPCR", CPCR, 2),
    Register("INTRMITIGATE", 0xE2, 2),
    Register("RDSAR", RDSAR, 4),
    Register("RDSAR high", RDSAR + 4, 4),
    Register("ETTHR", ETTHR, 1, 0xFF),
)

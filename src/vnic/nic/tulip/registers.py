"""The registers of the 21143: CSR0 to CSR15, which lie eight bytes apart (Hardware Reference Manual, chapter 3).

Values after a reset are QEMU's (hw/net/tulip.c).
"""

from __future__ import annotations

from typing import Final

CSRS: Final = 16
STRIDE: Final = 8

# Bus mode, CSR0
SWR: Final = 1 << 0
DSL_SHIFT: Final = 2
DSL_MASK: Final = 0x1F
"""Descriptor skip length, in longwords."""
DBO: Final = 1 << 20
"""Descriptors are big-endian."""

# Status, CSR5
TI: Final = 1 << 0
TU: Final = 1 << 2
LNP_ANC: Final = 1 << 4
RI: Final = 1 << 6
RU: Final = 1 << 7
LNF: Final = 1 << 12
FBE: Final = 1 << 13
AIS: Final = 1 << 15
NIS: Final = 1 << 16
RS_SHIFT: Final = 17
TS_SHIFT: Final = 20
LC: Final = 1 << 27
NORMAL: Final = TI | TU | RI | 1 << 11 | 1 << 14
CLEARED: Final = 0x0C01_FFFF
"""The bits that a write of ones clears."""
ABNORMAL: Final = CLEARED & ~(NORMAL | AIS | NIS)
LINK_CAUSES: Final = LNP_ANC | LNF | LC
STOPPED: Final = 0
RX_WAITS: Final = 3
RX_SUSPENDED: Final = 4
TX_SUSPENDED: Final = 6

# Operation mode, CSR6
SR: Final = 1 << 1
PR: Final = 1 << 6
PM: Final = 1 << 7
FD: Final = 1 << 9
OM: Final = 3 << 10
ST: Final = 1 << 13
PS: Final = 1 << 18
PCS: Final = 1 << 23
RA: Final = 1 << 30

# SROM and MII, CSR9
SR_CS: Final = 1 << 0
SR_SK: Final = 1 << 1
SR_DI: Final = 1 << 2
SR_DO: Final = 1 << 3
SR_SELECT: Final = 1 << 11
MDC: Final = 1 << 16
MDO: Final = 1 << 17
MDI: Final = 1 << 19

# SIA status, CSR12; its link bits are low while the link is good
LS100: Final = 1 << 1
LS10: Final = 1 << 2
ANS_GOOD: Final = 5 << 12
ANS_DETECT: Final = 2 << 12
# SIA connectivity, CSR13
SRL: Final = 1 << 0
"""The SIA is not held in reset."""

RESET: Final = (
    0xFE000000, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0xF0000000, 0x32000040, 0xF3FE0000, 0xE0000000, 0xFFF483FF, 0,
    0xFFFE0000, 0x000000C6, 0xFFFF0000, 0xFFFFFFFF, 0x8FF00000,
)  # fmt: skip

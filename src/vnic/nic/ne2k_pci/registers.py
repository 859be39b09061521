"""The registers of the DP8390 (datasheet, "Internal registers") and what the RTL8029 adds.

Sixteen addresses show one of four pages, which the command register chooses; most are other registers when written.
"""

from __future__ import annotations

from typing import Final

WINDOW_BYTES: Final = 0x100
COMMAND: Final = 0x00
DATA_PORT: Final = 0x10
RESET_PORT: Final = 0x1F

# Page 0; R: as it is read, W: as it is written
PSTART: Final = 0x01  # W; in page 2: R
PSTOP: Final = 0x02  # W; in page 2: R
BNRY: Final = 0x03
TSR: Final = 0x04  # R
TPSR: Final = 0x04  # W
TBCR0: Final = 0x05  # W
TBCR1: Final = 0x06  # W
ISR: Final = 0x07
RSAR0: Final = 0x08  # R: the current address
RSAR1: Final = 0x09
RBCR0: Final = 0x0A  # W
RBCR1: Final = 0x0B  # W
ID0: Final = 0x0A  # R: of the RTL8029
ID1: Final = 0x0B  # R
RSR: Final = 0x0C  # R
RCR: Final = 0x0C  # W
TCR: Final = 0x0D  # W
CNTR2: Final = 0x0F  # R: missed frames
DCR: Final = 0x0E  # W
IMR: Final = 0x0F  # W
# Page 1
PAR0: Final = 0x11
CURR: Final = 0x17
MAR0: Final = 0x18
# Page 2, R
PSTART_READ: Final = 0x21
PSTOP_READ: Final = 0x22
# Page 3 of the RTL8029, R
CONFIG2: Final = 0x35
CONFIG3: Final = 0x36

# COMMAND
STOP: Final = 0x01
TRANSMIT: Final = 0x04
REMOTE_READ: Final = 0x08
REMOTE_WRITE: Final = 0x10
ABORT: Final = 0x20
PAGE_SHIFT: Final = 6

# ISR
ISR_RX: Final = 0x01
ISR_TX: Final = 0x02
ISR_REMOTE_DONE: Final = 0x40
ISR_RESET: Final = 0x80
ISR_INTERRUPTS: Final = 0x7F

# RCR
ACCEPT_BROADCAST: Final = 0x04
ACCEPT_MULTICAST: Final = 0x08
PROMISCUOUS: Final = 0x10
MONITOR: Final = 0x20
# TCR
LOOPBACK: Final = 0x06
# DCR
WORD_TRANSFERS: Final = 0x01
# RSR, and the status of a received frame
RSR_OK: Final = 0x01
RSR_GROUP: Final = 0x20
# TSR
TSR_OK: Final = 0x01

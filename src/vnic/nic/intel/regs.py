"""The registers that Intel's gigabit NICs have at the same place, from the 82540EM to the 82576, and their bits.

Sections are those of Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual" (8254x
SDM). Each model has its own table of all its registers; the units that the models share find theirs here.
"""

from __future__ import annotations

VENDOR_INTEL = 0x8086
MMIO_BYTES = 0x20000
"""The size of the window of the registers."""

# General (§13.4.1 to §13.4.13)
CTRL, STATUS, EECD, EERD, CTRL_EXT, MDIC = 0x0000, 0x0008, 0x0010, 0x0014, 0x0018, 0x0020
VET = 0x0038
# Interrupts (§13.4.17 to §13.4.21)
ICR, ITR, ICS, IMS, IMC = 0x00C0, 0x00C4, 0x00C8, 0x00D0, 0x00D8
# Receive (§13.4.22 to §13.4.32)
RCTL, RDBAL, RDBAH, RDLEN, RDH, RDT = 0x0100, 0x2800, 0x2804, 0x2808, 0x2810, 0x2818
# Transmit (§13.4.33 to §13.4.45)
TCTL, TDBAL, TDBAH, TDLEN, TDH, TDT = 0x0400, 0x3800, 0x3804, 0x3808, 0x3810, 0x3818
TAIL = 24
"""From the first register of a ring to its tail."""
QUEUE_BYTES = 0x100
"""From the registers of a ring to those of the next one, where a chip has more than one."""
# What a frame's size or a ring's filling has to be for an interrupt
RSRPD, TXDCTL = 0x2C00, 0x3828
# Filters (§13.5)
MTA, RA, VFTA = 0x5200, 0x5400, 0x5600
MTA_COUNT, RA_COUNT, VFTA_COUNT = 128, 32, 128
# Wake-up (§13.6)
WUFC = 0x5808
# Statistics (§13.7)
MPC, GPRC, BPRC, MPRC, GPTC = 0x4010, 0x4074, 0x4078, 0x407C, 0x4080
PRC64, PTC64 = 0x405C, 0x40D8
GORCL, GORCH, GOTCL, GOTCH = 0x4088, 0x408C, 0x4090, 0x4094
RNBC, ROC = 0x40A0, 0x40AC
TORL, TORH, TOTL, TOTH = 0x40C0, 0x40C4, 0x40C8, 0x40CC
TPR, TPT, MPTC, BPTC, TSCTC = 0x40D0, 0x40D4, 0x40F0, 0x40F4, 0x40F8

# CTRL, §13.4.1
CTRL_SLU = 1 << 6
CTRL_SPEED_1000 = 2 << 8
CTRL_SWDPIN0 = 1 << 18
CTRL_SWDPIN2 = 1 << 20
CTRL_RST = 1 << 26
CTRL_VME = 1 << 30
CTRL_PHY_RST = 1 << 31
# STATUS, §13.4.2
STATUS_FD = 1 << 0
STATUS_LU = 1 << 1
STATUS_SPEED_1000 = 2 << 6
STATUS_ASDV_1000 = 3 << 8
STATUS_MTXCKOK = 1 << 10
# Causes in ICR, ICS, IMS and IMC, §13.4.17. RXSEQ and RXCFG are of fibre, PHYINT and GPI of pins that nothing drives.
ICR_TXDW = 1 << 0
ICR_TXQE = 1 << 1
ICR_LSC = 1 << 2
ICR_RXDMT0 = 1 << 4
ICR_RXO = 1 << 6
ICR_RXT0 = 1 << 7
ICR_MDAC = 1 << 9
ICR_TXD_LOW = 1 << 15
ICR_SRPD = 1 << 16
# RAH, §13.5.3
RAH_AV = 1 << 31

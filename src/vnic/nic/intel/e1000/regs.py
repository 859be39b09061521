"""The registers of the 82540EM as a table: name, offset, access, writable bits, value after reset.

From Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual" (8254x SDM), §13, where
the bits are explained too. `device.py` serves plain registers by this table and gives the others to their units.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

MMIO_BYTES = 0x20000
IO_BYTES = 0x40  # SDM §13.2 uses the first 8; QEMU's window is 64 bytes
IOADDR = 0x00
IODATA = 0x04


class Access(Enum):
    RW = auto()
    RO = auto()
    WO = auto()
    RC = auto()
    """Read only, and a read clears it: the statistics."""
    UNIT = auto()
    """Reads and writes have effects: a unit of the model serves it."""


class Register(NamedTuple):
    name: str
    offset: int
    access: Access
    mask: int = 0xFFFFFFFF
    """The bits that a write changes."""
    reset: int = 0
    span: int = 1
    """Registers in a row, 4 bytes apart."""


# General (§13.4.1 to §13.4.13)
CTRL, STATUS, EECD, EERD, CTRL_EXT, MDIC = 0x0000, 0x0008, 0x0010, 0x0014, 0x0018, 0x0020
CTRL_DUP, VET = 0x0004, 0x0038
# Interrupts (§13.4.17 to §13.4.21)
ICR, ITR, ICS, IMS, IMC = 0x00C0, 0x00C4, 0x00C8, 0x00D0, 0x00D8
# Receive (§13.4.22 to §13.4.32)
RCTL, RDBAL, RDBAH, RDLEN, RDH, RDT = 0x0100, 0x2800, 0x2804, 0x2808, 0x2810, 0x2818
# Transmit (§13.4.33 to §13.4.45)
TCTL, TDBAL, TDBAH, TDLEN, TDH, TDT = 0x0400, 0x3800, 0x3804, 0x3808, 0x3810, 0x3818
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
CTRL_FD = 1 << 0
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
STATUS_AS_QEMU = 0x80080000
"""Reserved bits that QEMU's model has set; guests print STATUS, so that it equals QEMU's."""
STATUS_RESET = STATUS_FD | STATUS_SPEED_1000 | STATUS_ASDV_1000 | STATUS_MTXCKOK | STATUS_AS_QEMU
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

_LOW16 = 0xFFFF
_RING_LENGTH = 0xFFF80  # RDLEN, TDLEN: multiples of 128 bytes, 20 bits

RW, RO, WO, RC, UNIT = Access.RW, Access.RO, Access.WO, Access.RC, Access.UNIT

REGISTERS = (
    Register("CTRL", CTRL, UNIT, reset=CTRL_SWDPIN2 | CTRL_SWDPIN0 | CTRL_SPEED_1000 | CTRL_SLU),
    Register("STATUS", STATUS, RO),
    Register("EECD", EECD, UNIT),
    Register("EERD", EERD, UNIT),
    Register("CTRL_EXT", CTRL_EXT, RW),
    Register("FLA", 0x001C, RW),
    Register("MDIC", MDIC, UNIT),
    Register("FCAL", 0x0028, RW),
    Register("FCAH", 0x002C, RW, _LOW16),
    Register("FCT", 0x0030, RW, _LOW16),
    Register("VET", VET, RW, _LOW16, reset=0x8100),
    Register("ICR", ICR, UNIT),
    Register("ITR", ITR, RW, _LOW16),
    Register("ICS", ICS, UNIT),
    Register("IMS", IMS, UNIT),
    Register("IMC", IMC, UNIT),
    Register("RCTL", RCTL, UNIT),
    Register("FCTTV", 0x0170, RW, _LOW16),
    Register("TXCW", 0x0178, RW, 0xC000FFFF),
    Register("RXCW", 0x0180, RO),
    Register("TCTL", TCTL, UNIT),
    Register("TIPG", 0x0410, RW, 0x3FFFFFFF),
    Register("AIT", 0x0458, RW, _LOW16),
    Register("LEDCTL", 0x0E00, RW, reset=0x602),
    Register("PBA", 0x1000, RW, reset=0x00100030),
    Register("FCRTL", 0x2160, RW, 0x8000FFF8),
    Register("FCRTH", 0x2168, RW, 0x0000FFF8),
    Register("RDFH", 0x2410, RW, 0x1FFF),
    Register("RDFT", 0x2418, RW, 0x1FFF),
    Register("RDFHS", 0x2420, RW, 0x1FFF),
    Register("RDFTS", 0x2428, RW, 0x1FFF),
    Register("RDFPC", 0x2430, RW, 0x1FFF),
    Register("RDBAL", RDBAL, UNIT, 0xFFFFFFF0),
    Register("RDBAH", RDBAH, UNIT),
    Register("RDLEN", RDLEN, UNIT, _RING_LENGTH),
    Register("RDH", RDH, UNIT, _LOW16),
    Register("RDT", RDT, UNIT, _LOW16),
    Register("RDTR", 0x2820, RW, _LOW16),
    Register("RXDCTL", 0x2828, RW),
    Register("RADV", 0x282C, RW, _LOW16),
    Register("RSRPD", RSRPD, RW, 0xFFF),
    Register("TXDMAC", 0x3000, RW),
    Register("TDFH", 0x3410, RW, 0x7FF),
    Register("TDFT", 0x3418, RW, 0x7FF),
    Register("TDFHS", 0x3420, RW, 0x1FFF),
    Register("TDFTS", 0x3428, RW, 0x1FFF),
    Register("TDFPC", 0x3430, RW, 0x1FFF),
    Register("TDBAL", TDBAL, UNIT, 0xFFFFFFF0),
    Register("TDBAH", TDBAH, UNIT),
    Register("TDLEN", TDLEN, UNIT, _RING_LENGTH),
    Register("TDH", TDH, UNIT, _LOW16),
    Register("TDT", TDT, UNIT, _LOW16),
    Register("TIDV", 0x3820, RW, _LOW16),
    Register("TXDCTL", TXDCTL, RW),
    Register("TADV", 0x382C, RW, _LOW16),
    Register("TSPMT", 0x3830, RW),
    # CRCERRS, ALGNERRC, SYMERRS, RXERRC, MPC, SCC, ECOL, MCC, LATECOL; COLC; DC, TNCRS, SEC, CEXTERR, RLEC;
    # XONRXC to GPTC; GORCL to GOTCH; RNBC to BPTC; TSCTC, TSCTFC
    Register("CRCERRS…LATECOL", 0x4000, RC, span=9),
    Register("COLC", 0x4028, RC),
    Register("DC…CEXTERR", 0x4030, RC, span=4),
    Register("RLEC", 0x4040, RC),
    Register("XONRXC…GPTC", 0x4048, RC, span=15),
    Register("GORC,GOTC", GORCL, RC, span=4),
    Register("RNBC…BPTC", RNBC, RC, span=22),
    Register("TSCTC,TSCTFC", TSCTC, RC, span=2),
    Register("RXCSUM", 0x5000, RW),
    Register("MTA", MTA, RW, span=MTA_COUNT),
    Register("RA", RA, UNIT, span=RA_COUNT),
    Register("VFTA", VFTA, RW, span=VFTA_COUNT),
    Register("WUC", 0x5800, RW),
    Register("WUFC", WUFC, UNIT),
    Register("WUS", 0x5810, RW),
    # EN_MNG2HOST, RCV_TCO_EN, ARP_EN, 0298_EN, RMCP_EN: as QEMU; no management traffic is ever filtered.
    Register("MANC", 0x5820, RW, reset=0x00222300),
    Register("IPAV", 0x5838, RW),
    Register("IP4AT", 0x5840, RW, span=8),
    Register("IP6AT", 0x5880, RW, span=4),
    Register("WUPL", 0x5900, RO),
    Register("WUPM", 0x5A00, RO, span=32),
    Register("SWSM", 0x5B50, RW),
    Register("FFLT", 0x5F00, RW, 0x7FF, span=8),
    Register("FFMT", 0x9000, RW, 0xF, span=255),
    Register("FFVT", 0x9800, RW, span=255),
)

ALIASES = {
    CTRL_DUP: CTRL,
    0x0108: 0x2820, 0x0110: RDBAL, 0x0114: RDBAH, 0x0118: RDLEN, 0x0120: RDH, 0x0128: RDT,
    0x0160: 0x2168, 0x0168: 0x2160,
    0x0420: TDBAL, 0x0424: TDBAH, 0x0428: TDLEN, 0x0430: TDH, 0x0438: TDT, 0x0440: 0x3820,
    **{0x0040 + 4 * i: RA + 4 * i for i in range(RA_COUNT)},
    **{0x0200 + 4 * i: MTA + 4 * i for i in range(MTA_COUNT)},
    **{0x0600 + 4 * i: VFTA + 4 * i for i in range(VFTA_COUNT)},
    0x8000: 0x2410, 0x8008: 0x2418, 0x8010: 0x3410, 0x8018: 0x3418,
}  # fmt: skip
"""Second addresses, kept for drivers of the 82542 (§13.2, table 13-2): alias to register."""


def _index() -> dict[int, Register]:
    found: dict[int, Register] = {}
    for register in REGISTERS:
        for offset in range(register.offset, register.offset + 4 * register.span, 4):
            assert offset not in found, register
            found[offset] = register
    for alias, offset in ALIASES.items():
        assert alias not in found, hex(alias)
        found[alias] = found[offset]
    return found


BY_OFFSET = _index()
"""Every 32-bit register of the window, aliases included; all other offsets read as 0 and ignore writes."""

RESET_VALUES = {register.offset: register.reset for register in REGISTERS if register.reset}

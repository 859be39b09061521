"""The registers of the 82540EM as a table: name, offset, access, writable bits, value after reset.

From Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual" (8254x SDM), §13, where
the bits are explained too. `device.py` serves plain registers by this table and gives the others to their units.
"""

from __future__ import annotations

from vnic.nic.intel import regs as r
from vnic.nic.intel.registers import Access, Register, index

CTRL_DUP = 0x0004
STATUS_AS_QEMU = 0x80080000
"""Reserved bits that QEMU's model has set; guests print STATUS, so that it equals QEMU's."""
STATUS_RESET = r.STATUS_FD | r.STATUS_SPEED_1000 | r.STATUS_ASDV_1000 | r.STATUS_MTXCKOK | STATUS_AS_QEMU

_LOW16 = 0xFFFF
_RING_LENGTH = 0xFFF80  # RDLEN, TDLEN: multiples of 128 bytes, 20 bits

RW, RO, WO, RC, UNIT = Access.RW, Access.RO, Access.WO, Access.RC, Access.UNIT

REGISTERS = (
    Register("CTRL", r.CTRL, UNIT, reset=r.CTRL_SWDPIN2 | r.CTRL_SWDPIN0 | r.CTRL_SPEED_1000 | r.CTRL_SLU),
    Register("STATUS", r.STATUS, RO),
    Register("EECD", r.EECD, UNIT),
    Register("EERD", r.EERD, UNIT),
    Register("CTRL_EXT", r.CTRL_EXT, RW),
    Register("FLA", 0x001C, RW),
    Register("MDIC", r.MDIC, UNIT),
    Register("FCAL", 0x0028, RW),
    Register("FCAH", 0x002C, RW, _LOW16),
    Register("FCT", 0x0030, RW, _LOW16),
    Register("VET", r.VET, RW, _LOW16, reset=0x8100),
    Register("ICR", r.ICR, UNIT),
    Register("ITR", r.ITR, RW, _LOW16),
    Register("ICS", r.ICS, UNIT),
    Register("IMS", r.IMS, UNIT),
    Register("IMC", r.IMC, UNIT),
    Register("RCTL", r.RCTL, UNIT),
    Register("FCTTV", 0x0170, RW, _LOW16),
    Register("TXCW", 0x0178, RW, 0xC000FFFF),
    Register("RXCW", 0x0180, RO),
    Register("TCTL", r.TCTL, UNIT),
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
    Register("RDBAL", r.RDBAL, UNIT, 0xFFFFFFF0),
    Register("RDBAH", r.RDBAH, UNIT),
    Register("RDLEN", r.RDLEN, UNIT, _RING_LENGTH),
    Register("RDH", r.RDH, UNIT, _LOW16),
    Register("RDT", r.RDT, UNIT, _LOW16),
    Register("RDTR", 0x2820, RW, _LOW16),
    Register("RXDCTL", 0x2828, RW),
    Register("RADV", 0x282C, RW, _LOW16),
    Register("RSRPD", r.RSRPD, RW, 0xFFF),
    Register("TXDMAC", 0x3000, RW),
    Register("TDFH", 0x3410, RW, 0x7FF),
    Register("TDFT", 0x3418, RW, 0x7FF),
    Register("TDFHS", 0x3420, RW, 0x1FFF),
    Register("TDFTS", 0x3428, RW, 0x1FFF),
    Register("TDFPC", 0x3430, RW, 0x1FFF),
    Register("TDBAL", r.TDBAL, UNIT, 0xFFFFFFF0),
    Register("TDBAH", r.TDBAH, UNIT),
    Register("TDLEN", r.TDLEN, UNIT, _RING_LENGTH),
    Register("TDH", r.TDH, UNIT, _LOW16),
    Register("TDT", r.TDT, UNIT, _LOW16),
    Register("TIDV", 0x3820, RW, _LOW16),
    Register("TXDCTL", r.TXDCTL, RW),
    Register("TADV", 0x382C, RW, _LOW16),
    Register("TSPMT", 0x3830, RW),
    # CRCERRS, ALGNERRC, SYMERRS, RXERRC, MPC, SCC, ECOL, MCC, LATECOL; COLC; DC, TNCRS, SEC, CEXTERR, RLEC;
    # XONRXC to GPTC; GORCL to GOTCH; RNBC to BPTC; TSCTC, TSCTFC
    Register("CRCERRS…LATECOL", 0x4000, RC, span=9),
    Register("COLC", 0x4028, RC),
    Register("DC…CEXTERR", 0x4030, RC, span=4),
    Register("RLEC", 0x4040, RC),
    Register("XONRXC…GPTC", 0x4048, RC, span=15),
    Register("GORC,GOTC", r.GORCL, RC, span=4),
    Register("RNBC…BPTC", r.RNBC, RC, span=22),
    Register("TSCTC,TSCTFC", r.TSCTC, RC, span=2),
    Register("RXCSUM", 0x5000, RW),
    Register("MTA", r.MTA, RW, span=r.MTA_COUNT),
    Register("RA", r.RA, UNIT, span=r.RA_COUNT),
    Register("VFTA", r.VFTA, RW, span=r.VFTA_COUNT),
    Register("WUC", 0x5800, RW),
    Register("WUFC", r.WUFC, UNIT),
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
    CTRL_DUP: r.CTRL,
    0x0108: 0x2820, 0x0110: r.RDBAL, 0x0114: r.RDBAH, 0x0118: r.RDLEN, 0x0120: r.RDH, 0x0128: r.RDT,
    0x0160: 0x2168, 0x0168: 0x2160,
    0x0420: r.TDBAL, 0x0424: r.TDBAH, 0x0428: r.TDLEN, 0x0430: r.TDH, 0x0438: r.TDT, 0x0440: 0x3820,
    **{0x0040 + 4 * i: r.RA + 4 * i for i in range(r.RA_COUNT)},
    **{0x0200 + 4 * i: r.MTA + 4 * i for i in range(r.MTA_COUNT)},
    **{0x0600 + 4 * i: r.VFTA + 4 * i for i in range(r.VFTA_COUNT)},
    0x8000: 0x2410, 0x8008: 0x2418, 0x8010: 0x3410, 0x8018: 0x3418,
}  # fmt: skip
"""Second addresses, kept for drivers of the 82542 (§13.2, table 13-2): alias to register."""

BY_OFFSET = index(REGISTERS, ALIASES)
"""Every 32-bit register of the window."""

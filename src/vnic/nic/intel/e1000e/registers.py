"""The registers of the 82574 as a table: name, offset, access, writable bits, value after reset.

From Intel's "82574 GbE Controller Family Datasheet", §10, with the values after reset of QEMU's e1000e. `device.py`
serves plain registers by this table and gives the others to their units. What only management firmware uses is plain.
"""

from __future__ import annotations

from vnic.nic.intel import regs as r
from vnic.nic.intel.registers import Access, Register, index

EEWR, IVAR, EITR, EIAC, IAM = 0x102C, 0x00E4, 0x00E8, 0x00DC, 0x00E0
FLA, PBA, PBS = 0x001C, 0x1000, 0x1008
PSRCTL, RXDCTL, TARC = 0x2170, 0x2828, 0x3840
RXCSUM, RFCTL, MRQC, RETA, RSSRK = 0x5000, 0x5008, 0x5818, 0x5C00, 0x5C80
SWSM = 0x5B50
SYSTIML, SYSTIMH, TIMINCA, TIMADJL, TIMADJH = 0xB600, 0xB604, 0xB608, 0xB60C, 0xB610
VECTORS = 5
RSSRK_COUNT = 10

# STATUS, §10.2.2.2
STATUS_PHYRA = 1 << 10
STATUS_MASTER = 1 << 19
STATUS_RESET = r.STATUS_FD | r.STATUS_SPEED_1000 | 2 << 8  # ASDV: 1000 Mb/s
# CTRL, §10.2.2.1
CTRL_MASTER_DISABLE = 1 << 2
CTRL_FLOW_CONTROL = 1 << 27 | 1 << 28
_CTRL_FD = 1 << 0
# CTRL_EXT, §10.2.2.5
CTRL_EXT_EIAME = 1 << 24
CTRL_EXT_IAME = 1 << 27
_CTRL_EXT_SELF_CLEARING = 1 << 12 | 1 << 13  # ASDCHK, EE_RST
# EECD, §10.2.2.3: read only are Present, Auto Read Done and the size
EECD_PRES, EECD_AUTO_RD = 1 << 8, 1 << 9
_EECD_SIZE = 0x7800
# GCR, §10.2.3.1: read only
GCR = 0x5B00
GCR_LATENCIES = 1 << 23 | 1 << 25 | 1 << 26
# EEWR, §10.2.4.20: a write to the NVM is done at once, and has no effect
EEWR_DONE = 1 << 1
# TARC, §10.2.6.11
TARC_ENABLE = 1 << 10

_LOW16 = 0xFFFF
_FIFO = 0x1FFF
_RING_LENGTH = 0xFFF80
_ALL = 0xFFFFFFFF

RW, RO, WO, RC, UNIT = Access.RW, Access.RO, Access.WO, Access.RC, Access.UNIT


def _queue(number: int) -> tuple[Register, ...]:
    """The registers of both rings of a queue."""
    at = r.QUEUE_BYTES * number
    return (
        Register(f"RDBAL{number}", r.RDBAL + at, UNIT, 0xFFFFFFF0),
        Register(f"RDBAH{number}", r.RDBAH + at, UNIT),
        Register(f"RDLEN{number}", r.RDLEN + at, UNIT, _RING_LENGTH),
        Register(f"RDH{number}", r.RDH + at, UNIT, _LOW16),
        Register(f"RDT{number}", r.RDT + at, UNIT, _LOW16),
        Register(f"RXDCTL{number}", RXDCTL + at, RW if number else UNIT, reset=1 << 16),
        Register(f"TDBAL{number}", r.TDBAL + at, UNIT, 0xFFFFFFF0),
        Register(f"TDBAH{number}", r.TDBAH + at, UNIT),
        Register(f"TDLEN{number}", r.TDLEN + at, UNIT, _RING_LENGTH),
        Register(f"TDH{number}", r.TDH + at, UNIT, _LOW16),
        Register(f"TDT{number}", r.TDT + at, UNIT, _LOW16),
        Register(f"TXDCTL{number}", r.TXDCTL + at, RW),
        Register(f"TARC{number}", TARC + at, RW, 0x780007FF, reset=3 | TARC_ENABLE),
    )


REGISTERS = (
    Register(
        "CTRL",
        r.CTRL,
        UNIT,
        reset=r.CTRL_SWDPIN2 | r.CTRL_SWDPIN0 | r.CTRL_SPEED_1000 | r.CTRL_SLU | _CTRL_FD,
    ),
    Register("STATUS", r.STATUS, UNIT, STATUS_PHYRA),
    Register("EECD", r.EECD, RW, _ALL & ~(EECD_PRES | EECD_AUTO_RD | _EECD_SIZE)),
    Register("EERD", r.EERD, UNIT),
    Register("CTRL_EXT", r.CTRL_EXT, RW, _ALL & ~_CTRL_EXT_SELF_CLEARING),
    Register("FLA", FLA, RW),
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
    Register("EIAC", EIAC, RW),
    Register("IAM", IAM, RW),
    Register("IVAR", IVAR, UNIT),
    Register("EITR", EITR, RW, _LOW16, span=VECTORS),
    Register("RCTL", r.RCTL, UNIT),
    Register("FCTTV", 0x0170, RW, _LOW16),
    Register("TCTL", r.TCTL, UNIT),
    Register("TIPG", 0x0410, RW, reset=0x00602008),
    Register("AIT", 0x0458, RW, _LOW16),
    Register("LEDCTL", 0x0E00, RW, reset=0x00068302),
    Register("EXTCNF_CTRL", 0x0F00, RW, reset=1 << 3),
    Register("EXTCNF_SIZE", 0x0F08, RW),
    Register("POEMB", 0x0F10, RW, reset=0x30D),
    Register("PBA", PBA, RW, reset=0x00140014),
    Register("PBS", PBS, RW, 0x3F, reset=0x28),
    Register("EEMNGCTL", 0x1010, RW, reset=1 << 31),
    Register("EEMNGDATA…FLMNGCNT", 0x1014, RO, span=4),
    Register("FLASHT", 0x1028, RW, _LOW16, reset=2),
    Register("EEWR", EEWR, RO),
    Register("FLSWCTL", 0x1030, RW, reset=3 << 30),
    Register("FLSWDATA,FLSWCNT,FLOP", 0x1034, RW, span=3),
    Register("FLOL", 0x1050, RW, reset=1),
    Register("FCRTL", 0x2160, RW, 0x8000FFF8),
    Register("FCRTH", 0x2168, RW, 0x0000FFF8),
    Register("PSRCTL", PSRCTL, UNIT, reset=2 | 4 << 8 | 4 << 16),
    Register("RDFH", 0x2410, RW, _FIFO),
    Register("RDFT", 0x2418, RW, _FIFO),
    Register("RDFHS", 0x2420, RW, _FIFO),
    Register("RDFTS", 0x2428, RW, _FIFO),
    Register("RDFPC", 0x2430, RW, _FIFO),
    Register("RDTR", 0x2820, RW, _LOW16),
    Register("RADV", 0x282C, RW, _LOW16),
    Register("RSRPD", r.RSRPD, RW, 0xFFF),
    Register("RAID", 0x2C08, RW, _LOW16),
    Register("TDFH", 0x3410, RW, _FIFO, reset=0x600),
    Register("TDFT", 0x3418, RW, _FIFO, reset=0x600),
    Register("TDFHS", 0x3420, RW, _FIFO, reset=0x600),
    Register("TDFTS", 0x3428, RW, _FIFO, reset=0x600),
    Register("TDFPC", 0x3430, RW, _FIFO),
    Register("TIDV", 0x3820, RW, _LOW16),
    Register("TADV", 0x382C, RW, _LOW16),
    *_queue(0),
    *_queue(1),
    # CRCERRS to LATECOL; COLC; DC to CEXTERR; RLEC; XONRXC to GPTC; GORCL to GOTCH; RNBC to BPTC; TSCTC, TSCTFC
    Register("CRCERRS…LATECOL", 0x4000, RC, span=9),
    Register("COLC", 0x4028, RC),
    Register("DC…CEXTERR", 0x4030, RC, span=4),
    Register("RLEC", 0x4040, RC),
    Register("XONRXC…GPTC", 0x4048, RC, span=15),
    Register("GORC,GOTC", r.GORCL, RC, span=4),
    Register("RNBC…BPTC", r.RNBC, RC, span=22),
    Register("TSCTC,TSCTFC", r.TSCTC, RC, span=2),
    Register("IAC…ICRXOC", 0x4100, RO, span=10),
    Register("RXCSUM", RXCSUM, RW, reset=1 << 8 | 1 << 9),
    Register("RFCTL", RFCTL, UNIT),
    Register("MAVTV", 0x5010, RW, span=4),
    Register("MTA", r.MTA, RW, span=r.MTA_COUNT),
    Register("RA", r.RA, UNIT, span=r.RA_COUNT),
    Register("VFTA", r.VFTA, RW, span=r.VFTA_COUNT),
    Register("WUC", 0x5800, RW),
    Register("WUFC", r.WUFC, UNIT),
    Register("WUS", 0x5810, RW),
    Register("MRQC", MRQC, RW),
    Register("MANC", 0x5820, RW, reset=1 << 28),
    Register("MFVAL", 0x5824, RW),
    Register("MFUTP01", 0x5828, RW),
    Register("MFUTP23", 0x5830, RW),
    Register("IPAV", 0x5838, RW),
    Register("IP4AT", 0x5840, RW, span=7),
    Register("MANC2H", 0x5860, RW),
    Register("IP6AT", 0x5880, RW, span=4),
    Register("MDEF", 0x5890, RW, span=8),
    Register("WUPL", 0x5900, RO),
    Register("WUPM", 0x5A00, RW, span=32),
    Register("GCR", GCR, RW, _ALL & ~GCR_LATENCIES, reset=1 << 9),
    Register("FUNCTAG", 0x5B08, RW),
    Register("GSCL,GSCN", 0x5B10, RW, span=8),
    Register("FACTPS", 0x5B30, RW, reset=0x20000004),
    Register("SWSM", SWSM, RW, reset=1),
    Register("GCR2", 0x5B64, RW),
    Register("PBACLR", 0x5B68, RW, 0x1F),
    Register("RETA", RETA, RW, span=32),
    Register("RSSRK", RSSRK, RW, span=32),
    Register("FFLT", 0x5F00, RW, 0x7FF, span=11),
    Register("FCRTV", 0x5F40, RW, _LOW16),
    Register("FFMT", 0x9000, RW, 0xF, span=255),
    Register("FTFT", 0x9400, RW, span=255),
    Register("FFVT", 0x9800, RW, span=255),
    Register("SYSTIML", SYSTIML, UNIT),
    Register("SYSTIMH", SYSTIMH, UNIT),
    Register("TIMINCA", TIMINCA, UNIT),
    Register("TIMADJL", TIMADJL, RW),
    Register("TIMADJH", TIMADJH, UNIT),
    # TSYNCTXCTL, TXSTMPL, TXSTMPH, TSYNCRXCTL, RXSTMPL, RXSTMPH, RXSATRL, RXSATRH: no frame is ever stamped.
    Register("TSYNCTXCTL…RXSATRH", 0xB614, RW, span=8),
    Register("RXCFGL", 0xB634, RW, reset=0x88F7),
    Register("RXUDP", 0xB638, RW, reset=0x319),
)

ALIASES = {
    0x0004: r.CTRL,
    0x0108: 0x2820, 0x0110: r.RDBAL, 0x0114: r.RDBAH, 0x0118: r.RDLEN, 0x0120: r.RDH, 0x0128: r.RDT,
    0x0160: 0x2168, 0x0168: 0x2160,
    0x0420: r.TDBAL, 0x0424: r.TDBAH, 0x0428: r.TDLEN, 0x0430: r.TDH, 0x0438: r.TDT, 0x0440: 0x3820,
    **{0x0040 + 4 * i: r.RA + 4 * i for i in range(r.RA_COUNT)},
    **{0x0600 + 4 * i: r.VFTA + 4 * i for i in range(r.VFTA_COUNT)},
    0x8000: 0x2410, 0x8008: 0x2418, 0x8010: 0x3410, 0x8018: 0x3418,
}  # fmt: skip
"""Second addresses, for drivers of older chips: alias to register."""

BY_OFFSET = index(REGISTERS, ALIASES)
"""Every 32-bit register of the window."""

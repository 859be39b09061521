"""The registers of the 82576 as a table: name, offset, access, writable bits, value after reset.

From Intel's 82576 datasheet, §8, and with QEMU's values after reset. `device.py` serves plain registers by this table
and gives the others to their units. The registers of VFs (mailboxes, pools, mirrors) are not there: there are no VFs.
"""

from __future__ import annotations

from vnic.nic.intel import regs as r
from vnic.nic.intel.registers import Access, Register, index

QUEUES = 16
VECTORS = 10
"""MSI-X vectors of the physical function, as QEMU's."""

# General, §8.2
CTRL_DUP, CONNSW, LEDCTL = 0x0004, 0x0034, 0x0E00
CTRL_GIO_MASTER_DISABLE = 1 << 2
CTRL_LRST = 1 << 3
STATUS_PHYRA = 1 << 10
STATUS_GIO_MASTER_ENABLE = 1 << 19
STATUS_AS_QEMU = 1 << 31
EECD_REQ, EECD_GNT = 1 << 6, 1 << 7
EECD_FIXED = 1 << 8 | 1 << 9 | 0xF << 11
"""The EEPROM is present, it was read after power-on, and its size: 256 words."""
_EECD_RESET = 1 << 4 | 1 << 8 | 1 << 9 | 2 << 11
SWSM, SWSM_SMBI = 0x5B50, 1 << 0
TCTL_RESET = 0xA40400F8
"""As QEMU: off, with the collision settings that the datasheet recommends."""
# Interrupts, §8.8
IAM = 0x00E0
EICS, EIMS, EIMC, EIAC, EIAM, EICR = 0x1520, 0x1524, 0x1528, 0x152C, 0x1530, 0x1580
GPIE, EITR, IVAR, IVAR_MISC, PBACLR = 0x1514, 0x1680, 0x1700, 0x1740, 0x5B68
EITR_COUNT = 25
# Receive, §8.10, and what chooses the queue
RXCSUM, RLPML, RFCTL, MRQC, RETA, RSSRK, ETQF = 0x5000, 0x5004, 0x5008, 0x5818, 0x5C00, 0x5C80, 0x5CB0
RA2, RA2_COUNT = 0x54E0, 16
RX, TX = 0xC000, 0xE000
"""The first register of queue 0; those of the next queue are 40h further on."""
QUEUE_BYTES = 0x40
SRRCTL, RXDCTL, RQDPC = 0x0C, 0x28, 0x30
TXDCTL, TDWBAL, TDWBAH = 0x28, 0x38, 0x3C
QUEUE_ENABLE = 1 << 25
# Time synchronization, §8.16
TSYNCTXCTL, TSYNCRXCTL = 0xB614, 0xB620

_LOW16 = 0xFFFF
_RING_BASE = 0xFFFFFF80
_RING_LENGTH = 0xFFFF0
_DCA_RESET = 1 << 9 | 1 << 11 | 1 << 13  # relaxed ordering

RW, RO, RC, UNIT = Access.RW, Access.RO, Access.RC, Access.UNIT


def _receive_queue(number: int) -> tuple[Register, ...]:
    at = RX + QUEUE_BYTES * number
    return (
        Register(f"RDBAL{number}", at, UNIT, _RING_BASE),
        Register(f"RDBAH{number}", at + 4, UNIT),
        Register(f"RDLEN{number}", at + 8, UNIT, _RING_LENGTH),
        Register(f"SRRCTL{number}", at + SRRCTL, UNIT),
        Register(f"RDH{number}", at + 0x10, UNIT, _LOW16),
        Register(f"RXCTL{number}", at + 0x14, RW),
        Register(f"RDT{number}", at + 0x18, UNIT, _LOW16),
        Register(f"RXDCTL{number}", at + RXDCTL, UNIT, reset=1 << 16 | QUEUE_ENABLE * (not number)),
        Register(f"RQDPC{number}", at + RQDPC, UNIT, 0xFFF),
    )


def _transmit_queue(number: int) -> tuple[Register, ...]:
    at = TX + QUEUE_BYTES * number
    return (
        Register(f"TDBAL{number}", at, UNIT, _RING_BASE),
        Register(f"TDBAH{number}", at + 4, UNIT),
        Register(f"TDLEN{number}", at + 8, UNIT, _RING_LENGTH),
        Register(f"TDH{number}", at + 0x10, UNIT, _LOW16),
        Register(f"TXCTL{number}", at + 0x14, RW, reset=_DCA_RESET),
        Register(f"TDT{number}", at + 0x18, UNIT, _LOW16),
        Register(f"TXDCTL{number}", at + TXDCTL, UNIT, reset=QUEUE_ENABLE * (not number)),
        Register(f"TDWBAL{number}", at + TDWBAL, RW, 0xFFFFFFFD),
        Register(f"TDWBAH{number}", at + TDWBAH, RW),
    )


REGISTERS = (
    # Full duplex, link reset, 1000 Mb/s, ADVD3WUC
    Register("CTRL", r.CTRL, UNIT, reset=1 << 0 | CTRL_LRST | r.CTRL_SPEED_1000 | 1 << 20),
    Register("STATUS", r.STATUS, UNIT, STATUS_PHYRA, reset=STATUS_PHYRA),
    Register("EECD", r.EECD, UNIT, reset=_EECD_RESET),
    Register("EERD", r.EERD, UNIT),
    Register("CTRL_EXT", r.CTRL_EXT, RW, ~(3 << 12) & 0xFFFFFFFF),  # ASDCHK and EE_RST clear themselves
    Register("FLA", 0x001C, RW),
    Register("MDIC", r.MDIC, UNIT),
    Register("FCAL", 0x0028, RW),
    Register("FCAH", 0x002C, RW, _LOW16),
    Register("FCT", 0x0030, RW, _LOW16),
    Register("CONNSW", CONNSW, RW),
    Register("VET", r.VET, RW, reset=0x81008100),
    Register("ICR", r.ICR, UNIT),
    Register("ICS", r.ICS, UNIT),
    Register("IMS", r.IMS, UNIT),
    Register("IMC", r.IMC, UNIT),
    Register("IAM", IAM, RW),
    Register("RCTL", r.RCTL, UNIT),
    Register("FCTTV", 0x0170, RW, _LOW16),
    Register("TXCW", 0x0178, RW),
    Register("TCTL", r.TCTL, UNIT),
    Register("TCTL_EXT", 0x0404, RW, reset=0x40 | 0x42 << 10),
    Register("TIPG", 0x0410, RW, reset=8 | 4 << 10 | 6 << 20),
    Register("LEDCTL", LEDCTL, RW, reset=0x07068302),
    # Bit 18: the configuration of this port was read from the EEPROM. Linux waits for it.
    Register("EEMNGCTL", 0x1010, RW, reset=1 << 31 | 1 << 18),
    Register("TCPTIMER", 0x104C, RW),
    Register("GPIE", GPIE, UNIT),
    Register("EICS", EICS, UNIT),
    Register("EIMS", EIMS, UNIT),
    Register("EIMC", EIMC, UNIT),
    Register("EIAC", EIAC, RW),
    Register("EIAM", EIAM, RW),
    Register("EICR", EICR, UNIT),
    Register("EITR", EITR, RW, 0x7FFFFFFF, span=EITR_COUNT),
    Register("IVAR", IVAR, RW, span=8),
    Register("IVAR_MISC", IVAR_MISC, RW, _LOW16),
    Register("FCRTL", 0x2160, RW, 0x8000FFF8),
    Register("FCRTH", 0x2168, RW, 0x0000FFF8),
    Register("RXPBS", 0x2404, RW, reset=0x40),
    Register("QDE", 0x2408, RW),
    Register("FCRTV", 0x2460, RW, _LOW16),
    Register("TXPBS", 0x3404, RW, reset=0x28),
    Register("DTXSWC", 0x3500, RW),
    Register("DTXCTL", 0x3590, RW, reset=0x44),
    # As the 82540EM's: CRCERRS to LATECOL; COLC; DC to CEXTERR; RLEC; XONRXC to GPTC; GORCL to GOTCH; RNBC to BPTC;
    # TSCTC, TSCTFC
    Register("CRCERRS…LATECOL", 0x4000, RC, span=9),
    Register("COLC", 0x4028, RC),
    Register("DC…CEXTERR", 0x4030, RC, span=4),
    Register("RLEC", 0x4040, RC),
    Register("XONRXC…GPTC", 0x4048, RC, span=15),
    Register("GORC,GOTC", r.GORCL, RC, span=4),
    Register("RNBC…BPTC", r.RNBC, RC, span=22),
    Register("TSCTC,TSCTFC", r.TSCTC, RC, span=2),
    Register("PCS_CFG0", 0x4200, RW),
    Register("PCS_LCTL", 0x4208, RW),
    Register("RXCSUM", RXCSUM, RW, reset=0x300),
    Register("RLPML", RLPML, RW, 0x3FFF, reset=0x2600),
    Register("RFCTL", RFCTL, RW),
    Register("MTA", r.MTA, RW, span=r.MTA_COUNT),
    Register("RA", r.RA, UNIT, span=r.RA_COUNT),
    Register("PSRTYPE", 0x5480, RW, span=8),
    Register("RA2", RA2, UNIT, span=RA2_COUNT),
    Register("VFTA", r.VFTA, RW, span=r.VFTA_COUNT),
    Register("WUC", 0x5800, RW),
    Register("WUFC", r.WUFC, UNIT),
    Register("WUS", 0x5810, RW),
    Register("MRQC", MRQC, UNIT),
    Register("MANC", 0x5820, RW),
    Register("IPAV", 0x5838, RW),
    Register("IP4AT", 0x5840, RW, span=8),
    Register("MANC2H", 0x5860, RW),
    Register("IP6AT", 0x5880, RW, span=4),
    Register("VMOLR", 0x5AD0, RW, reset=0x80002600, span=8),
    Register("RPLOLR", 0x5AF0, RW, reset=1 << 31),
    Register("GCR", 0x5B00, RW, reset=1 << 9 | 1 << 16 | 1 << 18 | 3 << 22),
    Register("FACTPS", 0x5B30, RW),
    Register("SWSM", SWSM, UNIT),
    Register("FWSM", 0x5B54, RW),
    Register("SW_FW_SYNC", 0x5B5C, RW),
    Register("PBACLR", PBACLR, RW),
    Register("RETA", RETA, RW, span=32),
    Register("RSSRK", RSSRK, RW, span=10),
    Register("ETQF", ETQF, RW, span=8),
    Register("UTA", 0xA000, RW, span=128),
    Register("TSYNCTXCTL", TSYNCTXCTL, UNIT),
    Register("TSYNCRXCTL", TSYNCRXCTL, UNIT),
    *(each for number in range(QUEUES) for each in _receive_queue(number)),
    *(each for number in range(QUEUES) for each in _transmit_queue(number)),
)

_RX_OFFSETS = (0x00, 0x04, 0x08, SRRCTL, 0x10, 0x14, 0x18, RXDCTL, RQDPC)
_TX_OFFSETS = (0x00, 0x04, 0x08, 0x10, 0x14, 0x18, TXDCTL, TDWBAL, TDWBAH)
ALIASES = {
    CTRL_DUP: r.CTRL,
    0x0168: 0x2160,
    **{0x0040 + 4 * i: r.RA + 4 * i for i in range(r.RA_COUNT)},
    **{0x0200 + 4 * i: r.MTA + 4 * i for i in range(r.MTA_COUNT)},
    **{0x0600 + 4 * i: r.VFTA + 4 * i for i in range(r.VFTA_COUNT)},
    **{r.RDBAL + 0x100 * n + at: RX + QUEUE_BYTES * n + at for n in range(4) for at in _RX_OFFSETS},
    **{r.TDBAL + 0x100 * n + at: TX + QUEUE_BYTES * n + at for n in range(4) for at in _TX_OFFSETS},
}
"""Second addresses: alias to register. Drivers use those of the first four queues (§8.1.3)."""

BY_OFFSET = index(REGISTERS, ALIASES)
"""Every 32-bit register of the window."""

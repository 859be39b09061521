"""The registers of the 8254x's PHY, a Marvell 88E1011 or the 82544's 88E1000 (SDM §13.4.7.1).

`device.py` passes them to the PHY unit.
"""

from __future__ import annotations

from vnic.nic.intel.phy import MII_REGISTERS, MiiRegister

PHY_REGISTERS = (
    *MII_REGISTERS,
    MiiRegister("PSCR", 16, 0x0360, 0xFFFF),
    MiiRegister("PSSR", 17, 0xA000, link=0x0C00),  # 1000 Mb/s, full duplex; link, and speed resolved
    MiiRegister("INT_ENABLE", 18, 0, 0xFFFF),
    MiiRegister("INT_STATUS", 19, 0),
    MiiRegister("EPSCR", 20, 0x0D60, 0xFFFF),
    MiiRegister("RX_ERRORS", 21, 0),
    MiiRegister("PAGE_SELECT", 29, 0, 0xFFFF),
    MiiRegister("PAGE_DATA", 30, 0, 0xFFFF),
)

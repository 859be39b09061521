"""The registers of the 82576's internal PHY, an IGP3 (82576 datasheet §8.27.3).

`device.py` passes them to the PHY unit. Linux's igb finds the PHY's type by its identifier.
"""

from __future__ import annotations

from vnic.nic.intel import phy as p
from vnic.nic.intel.phy import MiiRegister

PHY_ID2 = 0x0391
_IGP3_ID1 = 0x02A8

_OWN = {
    # 10 and 100 Mb/s, pause; the partner can do 100BASE-T4, too (QEMU).
    p.PHYID1: MiiRegister("PHYID1", p.PHYID1, _IGP3_ID1),
    p.ANLPAR: MiiRegister("ANLPAR", p.ANLPAR, 0x07E0, negotiated=0x4000),
    p.ANER: MiiRegister("ANER", p.ANER, 0x0005),
    p.CTRL1000: MiiRegister("CTRL1000", p.CTRL1000, 0x0F00, 0xFFFF),
}
PHY_REGISTERS = (
    *(_OWN.get(register.number, register) for register in p.MII_REGISTERS),
    MiiRegister("ANNP", 7, 0x2001, 0xFFFF),
    MiiRegister("ANLPRNP", 8, 0),
    MiiRegister("PORT_CONFIG", 16, 0x0120, 0xFFFF),
    MiiRegister("PORT_STATUS", 17, 0xC000),  # 1000 Mb/s
    MiiRegister("PORT_CTRL", 18, 0, 0xFFFF),
    MiiRegister("LINK_HEALTH", 19, 0),
    MiiRegister("POWER_MGMT", 25, 0x008D, 0xFFFF),
    MiiRegister("PAGE_SELECT", 31, 0, 0xFFFF),
)
"""Pages beyond the first are not there: their registers are those of the first (QEMU)."""

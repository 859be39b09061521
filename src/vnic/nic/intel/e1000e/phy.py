"""The registers of the 82574's PHY, a Marvell 88E1149R, in pages that register 22 chooses (datasheet §11).

`device.py` passes them to the PHY unit. Registers 0 to 15 are the same in all pages.
"""

from __future__ import annotations

from vnic.nic.intel.phy import MII_REGISTERS, MiiRegister, paged

PHY_ID2 = 0x0CB1
PAGE_SELECT = 22
OEM_BITS = 25
OEM_RESTART = 1 << 10

_OWN = {"ANLPAR": 0x07E0, "ANER": 0x0005, "CTRL1000": 0x0F00}
"""What this PHY, and its partner, show differently."""

PHY_REGISTERS = (
    *(register._replace(reset=_OWN.get(register.name, register.reset)) for register in MII_REGISTERS),
    MiiRegister("ANNP", 7, 0x2001, 0xFFFF),
    MiiRegister("ANLPRNP", 8, 0),
    MiiRegister("COPPER_CTRL1", 16, 0x3360, 0xFFFF),
    MiiRegister("COPPER_STAT1", 17, 0xA008, link=0x0C00),  # 1000 Mb/s, full duplex; link, and speed resolved
    MiiRegister("COPPER_INT_ENABLE", 18, 0, 0xFFFF),
    MiiRegister("COPPER_STAT2", 19, 0),
    MiiRegister("COPPER_CTRL3", 20, 0, 0xFFFF),
    MiiRegister("RX_ERRORS", 21, 0),
    MiiRegister("PAGE_SELECT", PAGE_SELECT, 0, 0x7F),
    MiiRegister("OEM_BITS", OEM_BITS, 0, 0xFFFF, self_clearing=OEM_RESTART),
    MiiRegister("COPPER_CTRL2", 26, 0, 0xFFFF),
    MiiRegister("BIAS_1", 29, 0, 0xFFFF),
    MiiRegister("BIAS_2", 30, 0, 0xFFFF),
    MiiRegister("MAC_CTRL1", paged(2, 16), 0x0088, 0xFFFF),
    MiiRegister("MAC_INT_ENABLE", paged(2, 18), 0, 0xFFFF),
    MiiRegister("MAC_STAT", paged(2, 19), 0),
    MiiRegister("MAC_CTRL2", paged(2, 21), 0x1046, 0xFFFF),
    MiiRegister("LED_FUNC_CTRL", paged(3, 16), 0, 0xFFFF),
    MiiRegister("LED_POLARITY", paged(3, 17), 0, 0xFFFF),
    MiiRegister("LED_TIMER", paged(3, 18), 0x4005, 0xFFFF),
    MiiRegister("LED_45_CTRL", paged(3, 19), 0, 0xFFFF),
    MiiRegister("1000T_SKEW", paged(5, 20), 0),
    MiiRegister("1000T_SWAP", paged(5, 21), 0),
    MiiRegister("CRC_COUNTERS", paged(6, 17), 0),
)

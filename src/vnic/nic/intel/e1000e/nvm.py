"""The words of the 82574's NVM (datasheet §6.1), as QEMU's e1000e has them, and the layout of its EERD.

Wake-up is off in word 36 (APM Enable), since there is none; a guest cannot change a word.
"""

from __future__ import annotations

from vnic.nic.intel.nvm import EerdLayout
from vnic.nic.intel.regs import VENDOR_INTEL

DEVICE_ID = 0x10D3

WORDS = {
    3: 0x0420, 4: 0xF746, 5: 0x2010,
    8: 0x0000, 9: 0x0000, 10: 0x026B, 11: DEVICE_ID, 12: VENDOR_INTEL, 13: DEVICE_ID, 14: 0x0000, 15: 0x8058,
    16: 0x0000, 17: 0x2001, 18: 0x7E7C, 20: 0x1000, 21: 0x00C8, 22: 0x0000, 23: 0x2704,
    24: 0x6CC9, 25: 0x3150, 26: 0x070E, 27: 0x460B, 28: 0x2D84, 29: 0x0100, 30: 0xF000, 31: 0x0706,
    32: 0x6000, 33: 0x0080, 34: 0x0F04, 35: 0x7FFF, 36: 0x4B01, 37: 0xC600, 38: 0x0000, 39: 0x20FF,
    40: 0x0028, 41: 0x0003, 42: 0x0000, 43: 0x0000, 44: 0x0000, 45: 0x0003, 46: 0x0000,
    48: 0x0100, 49: 0xC000, 50: 0x121C, 51: 0xC007, 60: 0x0000, 61: 0x0120,
}  # fmt: skip

EERD = EerdLayout(done=1 << 1, address_shift=2, address_mask=0x3FFF)  # §10.2.2.4

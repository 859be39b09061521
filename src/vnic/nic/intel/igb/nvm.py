"""The words of the 82576's EEPROM (datasheet §6.1), which drivers read through EERD. The device model programs them."""

from __future__ import annotations

from vnic.nic.intel import regs
from vnic.nic.intel.nvm import EerdLayout

DEVICE_ID = 0x10C9
SUBSYSTEM_VENDOR = 0x1AF4
SUBSYSTEM = 0x1100
"""QEMU's default subsystem id; guests' driver databases know it."""
REVISION = 1

EERD = EerdLayout(done=1 << 1, address_shift=2, address_mask=0x3FFF)  # §8.4.2

TEMPLATE = {
    3: 0x0D34,  # compatibility: a NIC, of which no address is an alternate one
    5: 0x2010,  # version
    8: 0x1040,  # printed board assembly
    10: 0x002B,  # initialization control 1
    11: SUBSYSTEM,
    12: SUBSYSTEM_VENDOR,
    13: DEVICE_ID,
    14: regs.VENDOR_INTEL,
    15: 0x70C3,  # initialization control 2
    16: 0x0004,  # software defined pins
    17: DEVICE_ID,
    18: 0x5C00,  # size: 256 words as drivers take it from EECD
    19: 0,
    20: 0x2880,  # initialization control 3; APM Enable (bit 10) is clear: there is no wake-up
    28: 0x0783,  # LEDs 1 and 3
    31: 0x0602,  # LEDs 0 and 2
    36: 0x2080,  # initialization control 3 of the other port; as above
}
"""Word 37h stays FFFFh: there is no alternate address."""

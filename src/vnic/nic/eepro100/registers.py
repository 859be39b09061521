"""The control/status registers (SDM §6.3), which drivers access by bytes, words and double words."""

from __future__ import annotations

from typing import Final

from vnic.nic.register_window import SizedRegister

MEMORY_BYTES: Final = 4096
IO_BYTES: Final = 64
FLASH_BYTES: Final = 128 << 10

STATUS: Final = 0x00
ACK: Final = 0x01
COMMAND: Final = 0x02
INTERRUPT_MASK: Final = 0x03
POINTER: Final = 0x04
PORT: Final = 0x08
FLASH: Final = 0x0C
EEPROM: Final = 0x0E
MDI: Final = 0x10
FLOW: Final = 0x18
GENERAL_STATUS: Final = 0x1D

REGISTERS: Final = (
    SizedRegister("SCB status", STATUS, 1),
    SizedRegister("SCB STAT/ACK", ACK, 1),
    SizedRegister("SCB command", COMMAND, 1),
    SizedRegister("SCB interrupt mask", INTERRUPT_MASK, 1),
    SizedRegister("SCB general pointer", POINTER, 4, writable=0xFFFFFFFF, narrow=True),
    SizedRegister("PORT", PORT, 4),
    SizedRegister("flash control", FLASH, 2, writable=0xFFFF),
    SizedRegister("EEPROM control", EEPROM, 1),
    SizedRegister("EEPROM control 2", EEPROM + 1, 1, writable=0xFF),
    SizedRegister("MDI control", MDI, 4),
    SizedRegister("flow control", FLOW, 2, writable=0xFFFF, narrow=True),
    SizedRegister("general status", GENERAL_STATUS, 1),
)

# STAT/ACK: what a driver acknowledges by writing ones (SDM §6.3.1).
COMMAND_DONE: Final = 0x80
"""CX: a command block with the bit I is done."""
FRAME_RECEIVED: Final = 0x40
LEFT_ACTIVE: Final = 0x20
"""CNA: the command unit is idle or suspended."""
NOT_READY: Final = 0x10
"""RNR: the receive unit has no descriptor, or was aborted."""
MDI_DONE: Final = 0x08
SOFTWARE: Final = 0x04
CAUSES: Final = COMMAND_DONE | FRAME_RECEIVED | LEFT_ACTIVE | NOT_READY | MDI_DONE | SOFTWARE
UNMASKABLE: Final = 0x0F
"""Of them, what a bit of its own does not mask."""
MASK_ALL: Final = 0x01
MASK_BITS: Final = 0xFC | MASK_ALL
INTERRUPT_NOW: Final = 0x02

# Bits of a command block and a receive frame descriptor (SDM §6.4.2, §6.4.3).
END: Final = 0x8000
SUSPEND: Final = 0x4000
INTERRUPT: Final = 0x2000
NO_CRC: Final = 0x0010
FLEXIBLE: Final = 0x0008
COMPLETE: Final = 0x8000
OK: Final = 0x2000
NO_BUFFER: Final = 0xFFFFFFFF

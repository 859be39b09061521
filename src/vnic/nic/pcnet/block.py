"""The initialization block, which the guest has in its memory and the chip reads at CSR0.INIT (data sheet,
"Initialization Block")."""

from __future__ import annotations

import struct
from array import array

from vnic.memory.guest import GuestMemory
from vnic.memory.shadow import Plan, copy
from vnic.nic.pcnet import registers as r
from vnic.nic.pcnet.registers import Registers
from vnic.pci.dma import Dma

_BLOCK_16 = struct.Struct("<H3H4HII")
_BLOCK_32 = struct.Struct("<HBB3HH4HII")
assert (_BLOCK_16.size, _BLOCK_32.size) == (24, 28)


def _layout(registers: Registers) -> struct.Struct:
    return _BLOCK_32 if registers.cells[r.BCR + r.SWS] & r.SSIZE32 else _BLOCK_16


def block_plan(registers: Registers, memory: GuestMemory) -> Plan:
    yield from copy(memory, [(registers.address(r.IADR), _layout(registers).size)])


def read_block(registers: Registers, dma: Dma) -> tuple[tuple[int, int], tuple[int, int]]:
    """Set what the block says in the registers; returns the base of the receive ring and the binary logarithm of its
    length, and the same of the transmit ring. Raises GuestMemoryError."""
    layout, cells = _layout(registers), registers.cells
    fields = layout.unpack(dma.read(registers.address(r.IADR), layout.size))
    rdra, tdra = fields[-2:]
    if layout is _BLOCK_32:
        rlen, tlen, padr, ladrf = fields[1] >> 4, fields[2] >> 4, fields[3:6], fields[7:11]
    else:
        rlen, tlen, padr, ladrf = rdra >> 29, tdra >> 29, fields[1:4], fields[4:8]
        rdra, tdra = registers.physical(rdra), registers.physical(tdra)
    cells[r.MODE], cells[r.LENGTHS] = fields[0], tlen << 12 | rlen << 8
    cells[r.PADR : r.PADR + 3] = array("Q", padr)
    cells[r.LADRF : r.LADRF + 4] = array("Q", ladrf)
    return (rdra, rlen), (tdra, tlen)

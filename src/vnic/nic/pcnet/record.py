"""The record of a Pcnet: its registers, the address PROM and the wire. Its rings are registers and guest memory."""

from __future__ import annotations

from vnic.nic.pci_nic import PciNicRecord
from vnic.nic.pcnet.registers import check
from vnic.record import U16, require

APROM_BYTES = 16


class PcnetRecord(PciNicRecord, frozen=True):
    registers: list[U16]
    aprom: bytes
    link_up: bool

    def check_fields(self) -> None:
        check(self.registers, "registers")
        require(len(self.aprom) == APROM_BYTES, "aprom", f"has {len(self.aprom)} bytes, not {APROM_BYTES}")

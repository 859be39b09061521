"""The record of an Eepro100, which consists of those of its units."""

from __future__ import annotations

from vnic.nic.eepro100.command import CommandRecord
from vnic.nic.eepro100.configuration import ConfigurationRecord
from vnic.nic.eepro100.eeprom import EepromRecord
from vnic.nic.eepro100.phy import PhyRecord
from vnic.nic.eepro100.receive import ReceiveRecord
from vnic.nic.eepro100.registers import CAUSES, MASK_BITS
from vnic.nic.eepro100.statistics import StatisticsRecord
from vnic.nic.pci_nic import PciNicRecord
from vnic.nic.register_window import SizedRegisterFileRecord
from vnic.record import U8, require


class Eepro100Record(PciNicRecord, frozen=True):
    """All state of an Eepro100."""

    registers: SizedRegisterFileRecord
    causes: U8
    mask: U8
    command: CommandRecord
    receive: ReceiveRecord
    configuration: ConfigurationRecord
    statistics: StatisticsRecord
    phy: PhyRecord
    eeprom: EepromRecord

    def check_fields(self) -> None:
        require(not self.causes & ~CAUSES, "causes", f"are {self.causes:#x}")
        require(not self.mask & ~MASK_BITS, "mask", f"is {self.mask:#x}")

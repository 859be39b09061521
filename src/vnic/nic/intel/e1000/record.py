"""The record of an E1000, which consists of those of its units."""

from __future__ import annotations

from vnic.nic.intel.e1000.eeprom import EepromRecord
from vnic.nic.intel.interrupts import InterruptsRecord
from vnic.nic.intel.link import LinkRecord
from vnic.nic.intel.phy import PhyRecord
from vnic.nic.intel.registers import RegisterFileRecord
from vnic.nic.intel.rx import ReceiverRecord
from vnic.nic.intel.statistics import StatisticsRecord
from vnic.nic.intel.tx import TransmitterRecord
from vnic.nic.pci_nic import PciNicRecord
from vnic.record import U32


class E1000Record(PciNicRecord, frozen=True):
    """All state of an E1000."""

    registers: RegisterFileRecord
    io_address: U32
    statistics: StatisticsRecord
    interrupts: InterruptsRecord
    eeprom: EepromRecord
    phy: PhyRecord
    link: LinkRecord
    rx: ReceiverRecord
    tx: TransmitterRecord

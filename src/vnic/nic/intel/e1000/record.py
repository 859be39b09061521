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
from vnic.pci.device import PciDeviceRecord
from vnic.record import U32, Mac, Record


class E1000Record(Record, frozen=True):
    """All state of an E1000. Its client saves the steps of the last link change."""

    function: PciDeviceRecord
    registers: RegisterFileRecord
    io_address: U32
    statistics: StatisticsRecord
    interrupts: InterruptsRecord
    eeprom: EepromRecord
    phy: PhyRecord
    link: LinkRecord
    rx: ReceiverRecord
    tx: TransmitterRecord
    info_mac: Mac
    complaints: list[str]

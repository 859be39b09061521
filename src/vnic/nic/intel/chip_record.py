"""The record of an Intel NIC, which consists of those of its units."""

from __future__ import annotations

from vnic.nic.intel.interrupts import InterruptsRecord
from vnic.nic.intel.link import LinkRecord
from vnic.nic.intel.phy import PhyRecord
from vnic.nic.intel.registers import RegisterFileRecord
from vnic.nic.intel.rx import ReceiverRecord
from vnic.nic.intel.statistics import StatisticsRecord
from vnic.nic.intel.tx import TransmitterRecord
from vnic.nic.pci_nic import PciNicRecord
from vnic.record import U32


class IntelNicRecord(PciNicRecord, frozen=True):
    """All state but that of the NVM's registers."""

    registers: RegisterFileRecord
    io_address: U32
    statistics: StatisticsRecord
    interrupts: InterruptsRecord
    phy: PhyRecord
    link: LinkRecord
    rx: ReceiverRecord
    tx: TransmitterRecord

"""The record of an Igb."""

from __future__ import annotations

from vnic.nic.intel.chip_record import IntelNicRecord
from vnic.nic.intel.igb.interrupts import ExtendedInterruptsRecord
from vnic.nic.intel.nvm import NvmRecord
from vnic.nic.intel.tx import TransmitterRecord


class IgbRecord(IntelNicRecord, frozen=True):
    """All state of an Igb."""

    interrupts: ExtendedInterruptsRecord
    nvm: NvmRecord
    further: list[TransmitterRecord]
    """Of the transmit queues after the first."""

"""The record of an E1000, which consists of those of its units."""

from __future__ import annotations

from vnic.nic.intel.chip_record import IntelNicRecord
from vnic.nic.intel.e1000.eeprom import EepromRecord


class E1000Record(IntelNicRecord, frozen=True):
    """All state of an E1000."""

    eeprom: EepromRecord

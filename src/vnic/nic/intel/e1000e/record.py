"""The record of an E1000e, which consists of those of its units."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.nic.intel.chip_record import IntelNicRecord
from vnic.nic.intel.e1000e.systim import SystemTimeRecord
from vnic.nic.intel.nvm import NvmRecord
from vnic.nic.intel.tx import TransmitterRecord


class E1000eRecord(IntelNicRecord, frozen=True):
    """All state of an E1000e."""

    nvm: NvmRecord
    systim: SystemTimeRecord
    further_tx: Annotated[list[TransmitterRecord], msgspec.Meta(min_length=1, max_length=1)]
    """Of the second queue."""

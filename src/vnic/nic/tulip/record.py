"""The record of a Tulip, which consists of its registers, its places in both lists, and those of its units."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.nic.microwire import MicrowireRecord
from vnic.nic.pci_nic import PciNicRecord
from vnic.nic.tulip.descriptors import MOST_PIECES
from vnic.nic.tulip.filter import HASH, INVERSE, SETUP_BYTES
from vnic.nic.tulip.mii import MiiRecord
from vnic.nic.tulip.registers import CSRS
from vnic.record import U16, U32, Record

Owed = Annotated[list[U32], msgspec.Meta(max_length=MOST_PIECES)]


class ListRecord(Record, frozen=True):
    at: U32
    owed: Owed
    """Descriptors that are done, and that the guest may not have yet."""


class TulipRecord(PciNicRecord, frozen=True):
    csr: Annotated[list[U32], msgspec.Meta(min_length=CSRS, max_length=CSRS)]
    rx: ListRecord
    tx: ListRecord
    tx_waits: bool
    """There is work for another turn, or its frames wait at the peer, and are lost with the process."""
    setup: Annotated[bytes, msgspec.Meta(min_length=SETUP_BYTES, max_length=SETUP_BYTES)]
    filter_kind: Annotated[int, msgspec.Meta(ge=0, le=HASH | INVERSE)]
    phy: Annotated[list[U16], msgspec.Meta(min_length=32, max_length=32)]
    mii: MiiRecord
    srom: MicrowireRecord
    link_up: bool

"""The record of an NE2000 on PCI."""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.nic.ne2k_pci.memory import SIZE
from vnic.nic.pci_nic import PciNicRecord
from vnic.record import U8, U16, require

_Eight = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]


class Ne2kPciRecord(PciNicRecord, frozen=True):
    """The registers; a page number is the upper byte of an address."""

    command: U8
    page_start: U8
    page_stop: U8
    boundary: U8
    current: U8
    transmit_page: U8
    transmit_count: U16
    transmit_status: U8
    remote_address: U16
    remote_count: U16
    receive_status: U8
    receive_config: U8
    transmit_config: U8
    data_config: U8
    interrupt_status: U8
    interrupt_mask: U8
    missed: U8
    physical: Annotated[bytes, msgspec.Meta(min_length=6, max_length=6)]
    multicast: _Eight
    paused: bool
    """A frame waits at the peer. If it is lost, call `sent` after `restore`."""
    waits: bool
    memory: Annotated[bytes, msgspec.Meta(max_length=SIZE)]
    """Empty: cells have it."""

    def check_fields(self) -> None:
        require(len(self.memory) in (0, SIZE), "memory", f"has {len(self.memory)} bytes, not {SIZE}")

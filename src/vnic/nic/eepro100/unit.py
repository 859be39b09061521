"""The interface of the device for its command unit and its receive unit."""

from __future__ import annotations

import struct
from typing import Annotated, Protocol

import msgspec

from vnic.memory.guest import GuestMemoryError
from vnic.net.clock import Scheduler
from vnic.nic.eepro100.configuration import Configuration
from vnic.nic.eepro100.models import Model
from vnic.nic.eepro100.statistics import Statistics
from vnic.nic.unit import NicUnitHost
from vnic.record import U32, Record

WORD = struct.Struct("<H")


class UnitHost(NicUnitHost, Protocol):
    """The device, as its units see it."""

    model: Model
    configuration: Configuration
    statistics: Statistics

    @property
    def scheduler(self) -> Scheduler: ...

    def post(self, causes: int) -> None:
        """Set bits of STAT/ACK, and interrupt."""

    def transmit(self, frame: bytes) -> bool:
        """Put a frame on the wire. False: it waits at the peer, and `resume` of the command unit will be called."""


class ShownRecord(Record, frozen=True):
    """What the guest is to see, and may not have seen when a process was killed: bytes at an address."""

    address: U32
    data: Annotated[bytes, msgspec.Meta(max_length=16)]


class Shown:
    """Writes of status words, in an order that leaves no moment at which a kill would have a block done twice: the unit
    goes on to the next block and saves that, then does the work, then shows it."""

    def __init__(self, device: UnitHost, unit: str) -> None:
        self._device = device
        self._unit = unit
        self.pending: ShownRecord | None = None
        """What the record has."""

    def promise(self, address: int, data: bytes) -> None:
        """These bytes will be shown: the block is done for any other process."""
        self.pending = ShownRecord(address=address, data=data)
        self._device.keep_record()

    def show(self) -> bool:
        """False: the guest's memory is not there."""
        pending, self.pending = self.pending, None
        self._device.touched()
        if pending is None:
            return True
        try:
            self._device.dma.write(pending.address, pending.data)
        except GuestMemoryError as error:
            self._device.bus_error(self._unit, error)
            return False
        return True

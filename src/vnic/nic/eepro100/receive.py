"""The receive unit: it fills the list of receive frame descriptors that the driver gives it (SDM §6.4.3).

Frames are in the descriptors themselves (the simplified mode). A descriptor with the bit EL is the last.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.nic.eepro100 import registers as r
from vnic.nic.eepro100.statistics import RX_GOOD, RX_NO_RESOURCES
from vnic.nic.eepro100.unit import WORD, Shown, ShownRecord, UnitHost
from vnic.record import U32, Record

_DESCRIPTOR: Final = struct.Struct("<HHIIHH")  # status, command, link, buffer, count, size
_COUNT_AT: Final = 12
_COUNT_VALID: Final = 0xC000  # EOF and F
_MASK: Final = 0xFFFFFFFF


class ReceiveState(IntEnum):
    """RUS of the SCB's status (SDM §6.3.1)."""

    IDLE = 0
    SUSPENDED = 1
    NO_RESOURCES = 2
    READY = 4


class ReceiveRecord(Record, frozen=True):
    state: ReceiveState
    base: U32
    offset: U32
    shown: ShownRecord | None


class ReceiveUnit:
    def __init__(self, device: UnitHost) -> None:
        self._device = device
        self._shown = Shown(device, "receive unit")
        self.reset()

    def reset(self) -> None:
        self._base = 0
        self.state = ReceiveState.IDLE
        self._offset = 0
        self._shown.pending = None

    def execute(self, command: int, pointer: int) -> bool:
        """The lower half of the SCB's command byte (SDM §6.3.2.3); whether there may be room now."""
        device = self._device
        if command == 1:
            self._offset = pointer
            self.state = ReceiveState.READY
            return True
        if command == 2:
            self.state = ReceiveState.READY
            return True
        if command == 4:
            if self.state is ReceiveState.READY:
                device.post(r.NOT_READY)
            self.state = ReceiveState.IDLE
            return True  # waiting frames are dropped
        if command == 6:
            self._base = pointer
        elif command:
            device.complain("SCB command", f"the receive unit has no command {command}")
        return False

    def receive(self, frame: bytes) -> bool:
        """A frame for the guest. False: there is no descriptor."""
        device = self._device
        if self.state is ReceiveState.IDLE or not device.bus_master:
            return True
        status = device.configuration.takes(frame)
        if status is None:
            return True
        if self.state is not ReceiveState.READY:
            return False
        try:
            return self._store(frame, status)
        except GuestMemoryError as error:
            device.bus_error("receive unit", error)
            self._no_resources()
            return True

    def _store(self, frame: bytes, status: int) -> bool:
        device = self._device
        at = self._base + self._offset & _MASK
        _, command, link, _buffer, _count, size = _DESCRIPTOR.unpack(device.dma.read(at, _DESCRIPTOR.size))
        if command & r.FLEXIBLE:
            device.complain("RX mode", "the flexible memory mode is not supported")
            self._no_resources()
            return False
        if not size and command & r.END:  # Linux's driver marks the end of its descriptors so
            self._no_resources()
            return False
        data = frame[: size & 0x3FFF]
        if data:
            device.dma.write(at + _DESCRIPTOR.size & _MASK, data)
        # The driver may write the other words of a descriptor at any time.
        device.dma.write(at + _COUNT_AT & _MASK, WORD.pack(len(data) | _COUNT_VALID))
        self._offset = link
        if command & r.END:
            self.state = ReceiveState.NO_RESOURCES
        elif command & r.SUSPEND:
            self.state = ReceiveState.SUSPENDED
        self._shown.promise(at, WORD.pack(r.COMPLETE | r.OK | status))
        device.statistics.count(RX_GOOD)
        self._shown.show()
        device.post(r.FRAME_RECEIVED | (r.NOT_READY if command & r.END else 0))
        return True

    def _no_resources(self) -> None:
        self.state = ReceiveState.NO_RESOURCES
        self._device.post(r.NOT_READY)

    def missed(self) -> None:
        """A frame was dropped since it could not wait any longer."""
        if self.state is not ReceiveState.IDLE:
            self._device.statistics.count(RX_NO_RESOURCES)

    # --- State ---

    def save(self) -> ReceiveRecord:
        return ReceiveRecord(
            state=self.state, base=self._base, offset=self._offset, shown=self._shown.pending
        )

    def restore(self, record: ReceiveRecord) -> None:
        """`go_on` follows, when all is restored."""
        self.state, self._base, self._offset = record.state, record.base, record.offset
        self._shown.pending = record.shown

    def go_on(self) -> None:
        self._shown.show()

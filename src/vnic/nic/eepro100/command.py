"""The command unit: it carries out the list of command blocks that the driver gives it (SDM §6.4.2).

Frames are command blocks as the others. A block with the bit EL ends the list, one with S suspends it.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from vnic.memory.guest import GuestMemoryError
from vnic.net.clock import Timer
from vnic.nic.eepro100 import registers as r
from vnic.nic.eepro100.configuration import MAX_BYTES
from vnic.nic.eepro100.statistics import TX_GOOD
from vnic.nic.eepro100.unit import WORD, Shown, ShownRecord, UnitHost
from vnic.record import U32, Record

_BLOCK: Final = struct.Struct("<HHI")  # status, command, link
_TRANSMIT: Final = struct.Struct(
    "<IHBB"
)  # array of buffer descriptors, bytes in the block, threshold, descriptors
_BUFFER: Final = struct.Struct("<IHH")  # address, size, end
_BODY_AT: Final = 8
_DATA_AT: Final = 16
_MASK: Final = 0xFFFFFFFF
MAX_FRAME_BYTES: Final = 2600
_MIN_BYTES: Final = 60
_FCS_BYTES: Final = 4
_MAX_MULTICAST_BYTES: Final = 0x3FFF
BLOCKS_PER_TURN: Final = 64
"""Limit on the blocks of one turn of the loop, so that other NICs get theirs."""

DUMPED: Final = 0xA005
DUMPED_AND_RESET: Final = 0xA007


class CommandState(IntEnum):
    """CUS of the SCB's status (SDM §6.3.1)."""

    IDLE = 0
    SUSPENDED = 1
    ACTIVE = 2


class CommandRecord(Record, frozen=True):
    state: CommandState
    base: U32
    offset: U32
    statistics_at: U32
    shown: ShownRecord | None


class CommandUnit:
    def __init__(self, device: UnitHost) -> None:
        self._device = device
        self._shown = Shown(device, "command unit")
        self._timer: Timer | None = None
        self._waits = False
        """A frame waits at the peer."""
        self._running = False
        self._budget = 0
        """The blocks that are left for this turn."""
        self.reset()

    def reset(self) -> None:
        self.base = self._statistics_at = 0
        self.state = CommandState.IDLE
        self._offset = 0
        self._waits = False
        self._shown.pending = None
        self.close()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- The SCB's commands (SDM §6.3.2.2) ---

    def execute(self, command: int, pointer: int) -> None:
        """`command` is the upper half of the SCB's command byte."""
        if command == 0x10:
            self._offset = pointer
            self._begin()
        elif command == 0x20:
            self._begin()  # also where the unit is idle, as QEMU's: Linux's older driver resumes from there
        elif command == 0x40:
            self._statistics_at = pointer & ~3
        elif command == 0x60:
            self.base = pointer
        elif command in (0x50, 0x70):
            self._dump(reset=command == 0x70)
        elif command:
            self._device.complain("SCB command", f"the command unit has no command {command >> 4}")

    def _dump(self, *, reset: bool) -> None:
        device = self._device
        size = device.configuration.statistics_bytes(device.model.statistics_bytes)
        done = (DUMPED_AND_RESET if reset else DUMPED).to_bytes(4, "little")
        try:
            device.dma.write(self._statistics_at, device.statistics.dump(size) + done)
        except GuestMemoryError as error:
            device.bus_error("statistics", error)
        if reset:
            device.statistics.reset()

    # --- The list ---

    def _begin(self) -> None:
        self.state = CommandState.ACTIVE
        self.work()

    def resume(self) -> None:
        """The peer took the waiting frame, or it is lost."""
        if self._waits:
            self._waits = False
            self.later()

    def later(self) -> None:
        if self._timer is None and self.state is CommandState.ACTIVE:
            self._timer = self._device.scheduler.call_soon(self._turn)

    def _turn(self) -> None:
        self._timer = None
        self.work()

    def work(self) -> None:
        """Carry out blocks, for one turn at the most."""
        if self._running or self._timer is not None:
            return
        self._running = True
        self._budget = BLOCKS_PER_TURN
        try:
            while self._budget > 0:
                if self.state is not CommandState.ACTIVE or self._waits or not self._device.bus_master:
                    return
                self._budget -= 1
                self._next()
        finally:
            self._running = False
        self.later()

    def _next(self) -> None:
        device = self._device
        at = self.base + self._offset & _MASK
        try:
            status, command, link = _BLOCK.unpack(device.dma.read(at, _BLOCK.size))
            ok, frame = self._carry_out(at, command)
        except GuestMemoryError as error:
            device.bus_error("command unit", error)
            self._leave(CommandState.IDLE)
            return
        self._offset = link
        self._shown.promise(at, WORD.pack(status | r.COMPLETE | (r.OK if ok else 0)))
        if frame:
            device.statistics.count(TX_GOOD)
            self._waits = not device.transmit(frame)
        self._shown.show()
        if command & r.INTERRUPT:
            device.post(r.COMMAND_DONE)
        if command & r.END:
            self._leave(CommandState.IDLE)
        elif command & r.SUSPEND:
            self._leave(CommandState.SUSPENDED)

    def _leave(self, state: CommandState) -> None:
        self.state = state
        self._device.post(r.LEFT_ACTIVE)

    def _carry_out(self, at: int, command: int) -> tuple[bool, bytes]:
        """Whether it could be done, and the frame to send, if it is one. Raises GuestMemoryError."""
        device, body = self._device, at + _BODY_AT & _MASK
        match command & 7:
            case 0 | 5 | 7:  # no operation, microcode, which is ignored, and the self-diagnosis, which passes
                return True, b""
            case 1:
                device.configuration.address = device.dma.read(body, 6)
                return True, b""
            case 2:
                device.configuration.configure(device.dma.read(body, MAX_BYTES))
                return True, b""
            case 3:
                count = int.from_bytes(device.dma.read(body, 2), "little") & _MAX_MULTICAST_BYTES
                self._budget -= count // 6  # each address takes about as long as a block
                device.configuration.set_multicast(device.dma.read(body + 2, count) if count else b"")
                return True, b""
            case 4:
                frame = self._collect(at, command)
                return bool(frame), frame
        device.complain("command block", "the command dump is not supported")
        return False, b""

    def _collect(self, at: int, command: int) -> bytes:
        """The frame of a transmit command block; empty if there is none (SDM §6.4.2.5). Raises GuestMemoryError."""
        device = self._device
        array, count, _threshold, descriptors = _TRANSMIT.unpack(
            device.dma.read(at + _BODY_AT & _MASK, _TRANSMIT.size)
        )
        parts = []
        if count := count & 0x3FFF:
            parts.append((at + _DATA_AT & _MASK, count))
        if array != r.NO_BUFFER and command & r.FLEXIBLE:
            parts += self._buffers(at, array, descriptors)
        size = sum(length for _, length in parts)
        if not 0 < size <= MAX_FRAME_BYTES:
            device.complain("TX length", f"a frame of {size} bytes is not sent")
            return b""
        frame = b"".join(device.dma.read(address, length) for address, length in parts)
        if command & r.NO_CRC:
            frame = frame[:-_FCS_BYTES]  # the guest has made its own
        return frame.ljust(_MIN_BYTES, b"\0")

    def _buffers(self, at: int, array: int, count: int) -> list[tuple[int, int]]:
        """What the buffer descriptors name. The first two of an extended block are in it."""
        device = self._device
        inside = 2 if device.model.extended and device.configuration.extended_blocks else 0
        found = []
        for number in range(count):
            if number < inside:
                where = at + _DATA_AT + _BUFFER.size * number
            else:
                where = array + _BUFFER.size * (number - inside)
            address, size, end = _BUFFER.unpack(device.dma.read(where & _MASK, _BUFFER.size))
            if size:
                found.append((address, size))
            if end & 1:
                break
        return found

    # --- State ---

    def save(self) -> CommandRecord:
        return CommandRecord(
            state=self.state,
            base=self.base,
            offset=self._offset,
            statistics_at=self._statistics_at,
            shown=self._shown.pending,
        )

    def restore(self, record: CommandRecord) -> None:
        """`go_on` follows, when all is restored."""
        self.close()
        self.state, self.base, self._offset = record.state, record.base, record.offset
        self._statistics_at = record.statistics_at
        self._shown.pending = record.shown

    def go_on(self) -> None:
        self._shown.show()
        self.later()

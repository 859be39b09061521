"""What a netem does to one frame: lost, too long, duplicated, corrupted, reordered, and by how much it is delayed.

`line` carries it out. The draws and their order are those of vnic-wire (program/impair.c): the same frames in the same
order from the same state have the same fate. They do not depend on the time, on `limit` or on `rate`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vnic.net.netem import tables
from vnic.net.netem.info import Counts
from vnic.net.netem.parameters import Parameters
from vnic.net.netem.random import Draw, Random, RandomRecord
from vnic.net.offload import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, OffloadError, complete
from vnic.net.queue import Frame

_TABLE_SHIFT: Final = 13
assert 1 << _TABLE_SHIFT == tables.SCALE


class Copy(NamedTuple):
    """A frame that goes on, or its duplicate."""

    parts: list[tuple[Frame, bytes]]
    """It, with its offload header; or the complete frames that it became when it was corrupted."""
    delay_ns: int | None
    """None: it overtakes those that are delayed."""


def wire_length(frame: Frame, offload: bytes) -> int:
    """The length of the frame, or of the longest segment that it will become."""
    kind = offload[1] & ~GSO_ECN if offload else GSO_NONE
    if kind == GSO_NONE:
        return len(frame)
    start = int.from_bytes(offload[6:8], "little")
    transport = 0
    if kind in (GSO_TCPV4, GSO_TCPV6):
        if start + 12 >= len(frame):
            return len(frame)
        transport = 4 * (frame[start + 12] >> 4)
    elif kind == GSO_UDP_L4:
        transport = 8
    return min(len(frame), start + transport + int.from_bytes(offload[4:6], "little"))


class Decider:
    """Decides for one direction."""

    def __init__(self, parameters: Parameters, state: RandomRecord, counts: Counts) -> None:
        self.random = Random(state)
        self.counts = counts
        self.set(parameters)

    def set(self, parameters: Parameters) -> None:
        """Go on with other parameters, and the same stream of random numbers."""
        self._parameters = parameters
        self._correlations = parameters.correlations
        self._gap, self._reorder = parameters.reordering
        self._table = tables.table(parameters.distribution)

    def decide(self, frame: Frame, offload: bytes) -> list[Copy]:
        """What goes on of a frame: nothing, it, or it and its duplicate."""
        parameters, counts = self._parameters, self.counts
        if parameters.max_frame and wire_length(frame, offload) > parameters.max_frame:
            counts.too_long += 1
            return []
        if self._chance(parameters.loss, Draw.LOSS):
            counts.lost += 1
            return []
        if self._chance(parameters.duplicate, Draw.DUPLICATE):
            counts.duplicated += 1
            return [self._copy(frame, offload), self._copy(frame, offload)]
        return [self._copy(frame, offload)]

    def _chance(self, part: int, what: Draw) -> bool:
        return part != 0 and part >= self.random.correlated(what, self._correlations[what])

    def _copy(self, frame: Frame, offload: bytes) -> Copy:
        parts = [(frame, offload)]
        if self._chance(self._parameters.corrupt, Draw.CORRUPT):
            self.counts.corrupted += 1
            parts = self._corrupted(frame, offload)
        return Copy(parts, None if self._overtakes() else self._delay())

    def _corrupted(self, frame: Frame, offload: bytes) -> list[tuple[Frame, bytes]]:
        """One bit is flipped after the checksums are complete, so that the receiver can notice it."""
        part_draw, bit_draw = self.random.draw(), self.random.draw()
        try:
            parts = complete(offload, frame) if offload else [bytes(frame)]
        except OffloadError:
            return [(frame, offload)]
        at = part_draw * len(parts) >> 32
        changed = bytearray(parts[at])
        if changed:
            bit = bit_draw * len(changed) * 8 >> 32
            changed[bit >> 3] ^= 1 << (bit & 7)
        parts[at] = bytes(changed)
        return [(part, b"") for part in parts]

    def _overtakes(self) -> bool:
        """sch_netem.c: of `gap` frames the last may overtake the others."""
        if not self._gap:
            return False
        if self.random.counter < self._gap - 1:
            self.random.counter += 1
            return False
        if self._chance(self._reorder, Draw.REORDER):
            self.random.counter = 0
            self.counts.reordered += 1
            return True
        return False

    def _delay(self) -> int:
        """sch_netem.c: tabledist."""
        delay, jitter = self._parameters.delay, self._parameters.jitter
        if jitter:
            drawn = self.random.correlated(Draw.DELAY, self._correlations[Draw.DELAY])
            if not self._table:
                delay += (drawn * 2 * jitter >> 32) - jitter
            else:
                entry = self._table[drawn * len(self._table) >> 32]
                delay += jitter * entry + tables.SCALE // 2 >> _TABLE_SHIFT
        return max(delay, 0)

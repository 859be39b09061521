"""The control channel's messages about impairments: parameters, the state of the random numbers, and counters.

`messages` parses them with all others, and `filter` makes them. `program/protocol.h` has the same as C structs, and
`program/impair.h` what each parameter does.
"""

from __future__ import annotations

import enum
import struct
from typing import ClassVar, Final

import msgspec

from vnic.dataplane.wire.layout import MessageError, first, fixed

MAX_LIMIT: Final = 1_000_000
"""The most frames under way in one direction."""
MAX_BYTES: Final = 256 << 20
"""The most bytes of them."""
MAX_NS: Final = 3_600_000_000_000
"""The longest delay and the longest jitter."""
MAX_RATE: Final = 10**12
"""Bytes per second."""
MAX_ENTRIES: Final = 16384
"""Of a distribution's table."""
ALWAYS: Final = 0xFFFF_FFFF
"""The probability 1."""

_PAIR: Final = struct.Struct("<II")
_STATE: Final = struct.Struct("<Q5II")
_IMPAIR: Final = struct.Struct("<4I3Q4I5I3I")  # then the state and the table
_COUNTERS: Final = struct.Struct("<8Q")
assert (_STATE.size, _IMPAIR.size, _COUNTERS.size) == (32, 88, 64)
_ON: Final = 1
_STATE_TOO: Final = 2


class ImpairDirection(enum.IntEnum):
    """Which frames of a port are impaired."""

    OUT = 1
    """Those that are delivered to it: a netem's queue=rx."""
    IN = 2
    """Those that come from it: queue=tx."""


class ImpairState(msgspec.Struct, frozen=True):
    """What the next decision depends on, beside the parameters."""

    random: int = 0
    """Of SplitMix64."""
    last: tuple[int, ...] = (0, 0, 0, 0, 0)
    """The last numbers with a correlation: delay, loss, duplicate, corrupt, reorder."""
    counter: int = 0
    """Frames since the last one that was reordered, up to the gap."""

    def pack(self) -> bytes:
        return _STATE.pack(self.random, *self.last, self.counter)

    @classmethod
    def parse(cls, data: bytes) -> ImpairState:
        random, *last, counter = fixed(_STATE, data)
        return cls(random, tuple(last), counter)


class Impairment(msgspec.Struct, frozen=True):
    """The parameters of one direction. Probabilities and correlations are parts of ALWAYS."""

    limit: int = 1000
    """Frames under way; more are dropped."""
    delay_ns: int = 0
    jitter_ns: int = 0
    rate: int = 0
    """Bytes per second; 0: no limit."""
    loss: int = 0
    duplicate: int = 0
    corrupt: int = 0
    reorder: int = 0
    correlation: tuple[int, ...] = (0, 0, 0, 0, 0)
    """Of delay, loss, duplicate, corrupt, reorder."""
    gap: int = 0
    """Every gap-th frame may be reordered; 0: none is."""
    max_frame: int = 0
    """Longer frames are lost; 0: none is. Bytes."""
    table: tuple[int, ...] = ()
    """The jitter's distribution, in 1/8192 of it; none: uniform."""


class Impair(msgspec.Struct, frozen=True):
    """Begin, change or (`impairment` None) end an impairment. What is under way keeps its time, and is lost at the end.

    `state` is for a new one; one that is there goes on with its own unless `take_state`.
    """

    type: ClassVar[int] = 20
    port: int
    direction: ImpairDirection
    impairment: Impairment | None = None
    state: ImpairState = ImpairState()
    take_state: bool = False

    def body(self) -> bytes:
        it = self.impairment or Impairment()
        flags = (_ON if self.impairment else 0) | (_STATE_TOO if self.take_state else 0)
        head = _IMPAIR.pack(
            *(self.port, self.direction, flags, it.limit, it.delay_ns, it.jitter_ns, it.rate),
            *(it.loss, it.duplicate, it.corrupt, it.reorder, *it.correlation),
            *(it.gap, it.max_frame, len(it.table)),
        )
        return head + self.state.pack() + struct.pack(f"<{len(it.table)}h", *it.table)

    @classmethod
    def parse(cls, body: bytes) -> Impair:
        port, number, flags, *values = first(_IMPAIR, body)
        limit, delay_ns, jitter_ns, rate, loss, duplicate, corrupt, reorder, *correlation = values[:-3]
        gap, max_frame, entries = values[-3:]
        start = _IMPAIR.size + _STATE.size
        if len(body) != start + 2 * entries:
            raise MessageError(f"a table of {entries} entries in {len(body)} bytes")
        table = struct.unpack_from(f"<{entries}h", body, start)
        impairment = Impairment(
            *(limit, delay_ns, jitter_ns, rate, loss, duplicate, corrupt, reorder),
            *(tuple(correlation), gap, max_frame, table),
        )
        state = ImpairState.parse(body[_IMPAIR.size : start])
        on, take_state = bool(flags & _ON), bool(flags & _STATE_TOO)
        return cls(port, _direction(number), impairment if on else None, state, take_state)


class GetImpairment(msgspec.Struct, frozen=True):
    """The state and the counters of one direction, as an ImpairReply."""

    type: ClassVar[int] = 21
    port: int
    direction: ImpairDirection

    def body(self) -> bytes:
        return _PAIR.pack(self.port, self.direction)

    @classmethod
    def parse(cls, body: bytes) -> GetImpairment:
        port, number = fixed(_PAIR, body)
        return cls(port, _direction(number))


class ImpairReply(msgspec.Struct, frozen=True):
    """The reply to both: the state, and the frames by what became of them."""

    state: ImpairState = ImpairState()
    passed: int = 0
    """Left for the next place."""
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0
    over_limit: int = 0
    too_long: int = 0
    waiting: int = 0
    """Under way. At the end: dropped with it."""

    def pack(self) -> bytes:
        counters = msgspec.structs.astuple(self)[1:]
        return self.state.pack() + _COUNTERS.pack(*counters)

    @classmethod
    def parse(cls, data: bytes) -> ImpairReply:
        return cls(ImpairState.parse(data[: _STATE.size]), *fixed(_COUNTERS, data[_STATE.size :]))


def _direction(number: int) -> ImpairDirection:
    if number not in list(ImpairDirection):
        raise MessageError(f"direction {number}")
    return ImpairDirection(number)

"""The random numbers of a netem: SplitMix64, and tc-netem's correlated draws. Exact to the seed, in integers.

`decide` draws from it. vnic-wire (program/impair.c) draws the same numbers in the same order from the same state.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final

import msgspec

from vnic.record import U32, U64, Record

_MASK: Final = (1 << 64) - 1
_STEP: Final = 0x9E3779B97F4A7C15


class Draw(IntEnum):
    """What a number is drawn for; each has a correlation and a last value of its own."""

    DELAY = 0
    LOSS = 1
    DUPLICATE = 2
    CORRUPT = 3
    REORDER = 4


class RandomRecord(Record, frozen=True):
    """The state of a Random; vnic-wire takes and returns it."""

    random: U64
    last: Annotated[list[U32], msgspec.Meta(min_length=len(Draw), max_length=len(Draw))]
    counter: U32
    """Frames since the last one that was reordered."""


def mixed(state: int) -> int:
    """The 64-bit output for a state that was just increased (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014)."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
    return state ^ state >> 31


class Random:
    """One stream, for one direction of a netem."""

    def __init__(self, state: RandomRecord) -> None:
        self._state = state.random
        self.last = list(state.last)
        self.counter = state.counter

    def draw(self) -> int:
        """32 bits."""
        self._state = self._state + _STEP & _MASK
        return mixed(self._state) >> 32

    def correlated(self, what: Draw, correlation: int) -> int:
        """32 bits that depend on the last such draw, by `correlation` of 2**32 - 1 (sch_netem.c: get_crandom)."""
        value = self.draw()
        if correlation:
            rho = correlation + 1
            value = self.last[what] = value * ((1 << 32) - rho) + self.last[what] * rho >> 32
        return value

    def save(self) -> RandomRecord:
        return RandomRecord(random=self._state, last=list(self.last), counter=self.counter)


def streams(seed: int) -> tuple[RandomRecord, RandomRecord]:
    """The states of the streams of a seed: rx, for the frames that the netdev receives, and tx."""
    first = seed + _STEP & _MASK
    return _stream(mixed(first)), _stream(mixed(first + _STEP & _MASK))


def _stream(state: int) -> RandomRecord:
    stream = Random(RandomRecord(random=state, last=[0] * len(Draw), counter=0))
    stream.last = [stream.draw() for _ in Draw]
    return stream.save()

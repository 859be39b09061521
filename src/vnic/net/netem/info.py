"""What queries tell of impairments: what each netem does, and what became of the frames.

`decide` counts, `filter.impair` makes the entries, and the monitor sends them unchanged.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from vnic.net.netem.words import NetemWords

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Counts(msgspec.Struct, rename="kebab"):
    """What became of the frames of one direction. `passed` is counted as they leave."""

    passed: Count = 0
    lost: Count = 0
    duplicated: Count = 0
    corrupted: Count = 0
    reordered: Count = 0
    over_limit: Count = 0
    """Dropped, for too many were under way."""
    too_long: Count = 0


class DirectionInfo(msgspec.Struct, rename="kebab", frozen=True):
    """One direction of a netem."""

    direction: Literal["rx", "tx"]
    waiting: int
    """Frames under way."""
    counts: Counts


class NetemInfo(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True):
    """An entry of query-impairments."""

    id: str
    netdev: str
    queue: Literal["all", "rx", "tx"]
    text: str
    """What differs from the defaults, in tc's words; "": nothing."""
    parameters: NetemWords
    on: bool
    directions: list[DirectionInfo]
    nic: str | None = None
    fault: str | None = None
    """The shape of the fault that it is."""

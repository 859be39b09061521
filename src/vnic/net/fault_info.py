"""The shapes of faults, their settings, and what query-faults tells of them.

`faults` and `filter.fault` carry them out; the monitor sends the entries unchanged.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from vnic.net.errors import NetError

MS_MAX: Final = 24 * 3600 * 1000
PENALTY: Final = 1000
"""Of each time that a link goes down (RFC 2439 §4.2; routers' IP event dampening has the same number)."""
PENALTY_MAX: Final = 1_000_000
_HALF_LIVES_MAX: Final = 20
"""No link goes down so often that a penalty takes longer to fall."""

Ms = Annotated[int, msgspec.Meta(ge=1, le=MS_MAX)]
Penalty = Annotated[int, msgspec.Meta(ge=1, le=PENALTY_MAX)]


class FaultShape(StrEnum):
    """What is wrong with a link."""

    ONE_WAY = "one-way"
    """The frames of one direction are lost."""
    DEAD = "dead"
    """It is up, and all frames are lost."""
    BLACK_HOLE = "black-hole"
    """Frames above a length are lost."""
    SLOW_UP = "slow-up"
    """It comes up late."""
    DAMPENED = "dampened"
    """It is held down after too many flaps."""


class SlowUpSettings(msgspec.Struct, frozen=True):
    """Those of a `slow-up`."""

    delay_ms: Ms

    def text(self) -> str:
        return f"comes up {seconds_text(self.delay_ms)} after nothing else holds it"


class DampenedSettings(msgspec.Struct, frozen=True):
    """Those of a `dampened`; the defaults are those of routers' IP event dampening."""

    half_life_ms: Ms = 5000
    suppress: Penalty = 2000
    """The link is held when its penalty is above this."""
    reuse: Penalty = 1000
    """It is held until the penalty has fallen below this."""
    max_ms: Ms | None = None
    """The longest time that it is held after it went down last; None: four half-lives."""

    @property
    def longest_ms(self) -> int:
        return 4 * self.half_life_ms if self.max_ms is None else self.max_ms

    @property
    def most(self) -> float:
        """The highest penalty, from which `longest_ms` leads down to `reuse`."""
        return float(self.reuse * 2 ** min(self.longest_ms / self.half_life_ms, _HALF_LIVES_MAX))

    def check(self) -> None:
        """Raise NetError for values that do not go together."""
        if self.reuse > self.suppress:
            raise NetError(
                f"Parameter 'reuse' expects at most 'suppress', {self.suppress}, not '{self.reuse}'"
            )
        if self.most <= self.suppress:
            raise NetError(
                f"within 'max-ms', {self.longest_ms}, no penalty above 'suppress', {self.suppress}, falls to 'reuse',"
                f" {self.reuse}: the link would never be held"
            )

    def text(self) -> str:
        return (
            f"held above a penalty of {self.suppress}, until it is below {self.reuse}; {PENALTY} for each time down,"
            f" half of it after {seconds_text(self.half_life_ms)}, at most {seconds_text(self.longest_ms)}"
        )


class FaultWords(msgspec.Struct, rename="kebab", frozen=True, kw_only=True):
    """What link-fault takes beside a name and a shape."""

    direction: Literal["rx", "tx"] | None = None
    """Of a `one-way`: the frames that are lost, as the netdev sees them."""
    bytes: int | None = None
    """Of a `black-hole`: the longest frame that passes."""
    delay_ms: int | None = None
    """Of a `slow-up`."""
    half_life_ms: int | None = None
    """Of a `dampened`, as the next ones."""
    suppress: int | None = None
    reuse: int | None = None
    max_ms: int | None = None


class FaultInfo(msgspec.Struct, rename="kebab", frozen=True, omit_defaults=True, kw_only=True):
    """An entry of query-faults."""

    id: str
    name: str
    """The NIC or netdev."""
    shape: FaultShape
    text: str
    by: str | None = None
    """Who set it, of a `slow-up` or `dampened`."""
    direction: Literal["rx", "tx"] | None = None
    """Of a `one-way`: the direction whose frames are lost."""
    bytes: int | None = None
    """Of a `black-hole`: the longest frame that passes."""
    delay_ms: int | None = None
    half_life_ms: int | None = None
    suppress: int | None = None
    reuse: int | None = None
    max_ms: int | None = None
    holds: bool = False
    """It holds the link down now."""
    left_ms: int | None = None
    """Until it no longer does."""
    penalty: int | None = None
    downs: int | None = None
    """How often the link went down, of a `dampened`."""


def seconds_text(ms: int) -> str:
    """`0.2 s`."""
    return f"{ms / 1000:g} s"

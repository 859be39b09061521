"""The parameters of a netem: tc-netem's, as text for people and as integers for `decide` and for vnic-wire.

`filter.netem` makes them from the options of `-object netem`, and from what qom-set and link-impair change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, cast

import msgspec

from vnic.net.errors import NetError
from vnic.net.netem import units
from vnic.net.netem.random import Draw
from vnic.net.netem.words import DEFAULT_LIMIT, DISTRIBUTIONS, Distribution
from vnic.record import U32, Record, RecordError

MAX_LIMIT: Final = 1_000_000

TimeNs = Annotated[int, msgspec.Meta(ge=0, le=units.MAX_TIME_NS)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class Parameters(Record, frozen=True):
    """What a netem does to each frame. Probabilities and correlations are parts of `units.ALL`."""

    delay: TimeNs = 0
    jitter: TimeNs = 0
    delay_correlation: U32 = 0
    distribution: Distribution = "uniform"
    loss: U32 = 0
    loss_correlation: U32 = 0
    duplicate: U32 = 0
    duplicate_correlation: U32 = 0
    corrupt: U32 = 0
    corrupt_correlation: U32 = 0
    reorder: U32 = 0
    reorder_correlation: U32 = 0
    gap: U32 = 0
    rate: Annotated[int, msgspec.Meta(ge=0, le=units.MAX_RATE)] = 0
    """Bytes per second; 0: no limit."""
    limit: Limit = DEFAULT_LIMIT
    """The most frames that are under way in one direction."""
    max_frame: U32 = 0
    """Longer frames are lost; 0: none for their length."""

    def check_fields(self) -> None:
        """A record that was changed by hand gets the text of the option."""
        try:
            self.check()
        except NetError as error:
            raise RecordError("", error.desc) from None

    def check(self) -> None:
        """Raise NetError for a parameter that has no effect without another."""
        for name, needed in _NEEDS.items():
            given = getattr(self, name) not in (0, "uniform")
            if given and not any(getattr(self, each) for each in needed):
                raise NetError(f"Parameter '{_kebab(name)}' needs '{needed[0]}'")

    @property
    def correlations(self) -> tuple[int, ...]:
        """In the order of Draw."""
        return tuple(getattr(self, f"{each.name.lower()}_correlation") for each in Draw)

    @property
    def reordering(self) -> tuple[int, int]:
        """(gap, probability) in effect: one without the other is tc's gap 1, or 100 %."""
        if not self.gap:
            return (1 if self.reorder else 0), self.reorder
        return self.gap, self.reorder or units.ALL

    @property
    def is_gate(self) -> bool:
        """It only loses frames, all or the long ones: no random number matters, and nothing is under way."""
        rest = (name for name in self.__struct_fields__ if name not in ("loss", "max_frame", "limit"))
        return self.loss in (0, units.ALL) and all(
            getattr(self, name) == getattr(NOTHING, name) for name in rest
        )

    def text(self) -> str:
        """What differs from NOTHING, in tc's words: `delay 10ms jitter 2ms, loss 0.5%`."""
        parts: list[str] = []
        for name in _SHOWN:
            value = getattr(self, name)
            if value != getattr(NOTHING, name):
                word = f"{_kebab(name)} {PROPERTIES[_kebab(name)].show(value)}"
                if name in _CONTINUES and parts:
                    parts[-1] += f" {word}"
                else:
                    parts.append(word)
        return ", ".join(parts)


_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "delay_correlation": ("jitter",),
    "distribution": ("jitter",),
    "loss_correlation": ("loss",),
    "duplicate_correlation": ("duplicate",),
    "corrupt_correlation": ("corrupt",),
    "reorder": ("delay", "jitter", "rate"),
    "gap": ("delay", "jitter", "rate"),
    "reorder_correlation": ("reorder", "gap"),
}
_CONTINUES: Final = frozenset(_NEEDS) - {"reorder"} | {"jitter"}


@dataclass(frozen=True, slots=True)
class Property:
    """One parameter as a property of the object."""

    parse: Callable[[str, object], object]
    """From its name and the value that was given. Raises NetError."""
    show: Callable[[int], object]
    """The value as text, or the number itself."""


def _of_text(parse: Callable[[str, str], int]) -> Callable[[str, object], int]:
    def parsed(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise NetError(f"Invalid parameter type for '{name}', expected: string")
        return parse(name, str(value))

    return parsed


def _number(least: int, most: int) -> Callable[[str, object], int]:
    def parsed(name: str, value: object) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)  # HMP has no numbers
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise units.refusal(name, f"a number from {least} to {most}", value)
        return value

    return parsed


def _distribution(name: str, value: object) -> Distribution:
    if value not in DISTRIBUTIONS:
        raise units.refusal(name, ", ".join(DISTRIBUTIONS[:-1]) + f" or {DISTRIBUTIONS[-1]}", value)
    return cast(Distribution, value)


def _same(value: int) -> object:
    return value


_TIME: Final = Property(_of_text(units.parse_time), units.show_time)
_PERCENT: Final = Property(_of_text(units.parse_percent), units.show_percent)
_U32: Final = Property(_number(0, 0xFFFF_FFFF), _same)
PROPERTIES: Final[Mapping[str, Property]] = {
    "delay": _TIME,
    "jitter": _TIME,
    "delay-correlation": _PERCENT,
    "distribution": Property(_distribution, _same),
    "loss": _PERCENT,
    "loss-correlation": _PERCENT,
    "duplicate": _PERCENT,
    "duplicate-correlation": _PERCENT,
    "corrupt": _PERCENT,
    "corrupt-correlation": _PERCENT,
    "reorder": _PERCENT,
    "reorder-correlation": _PERCENT,
    "gap": _U32,
    "rate": Property(_of_text(units.parse_rate), units.show_rate),
    "limit": Property(_number(1, MAX_LIMIT), _same),
    "max-frame": _U32,
}
"""By the name of the property."""
_SHOWN: Final = tuple(name.replace("-", "_") for name in PROPERTIES)

NOTHING: Final = Parameters()
"""No impairment."""


def changed(old: Parameters, given: Mapping[str, object]) -> Parameters:
    """`old` with the properties that are given, by their names. Raises NetError."""
    values = {_snake(name): PROPERTIES[name].parse(name, value) for name, value in given.items()}
    try:
        return msgspec.structs.replace(old, **values)
    except RecordError as error:
        raise NetError(error.why) from None


def shown(parameters: Parameters) -> dict[str, object]:
    """All properties as they are shown."""
    return {name: each.show(getattr(parameters, _snake(name))) for name, each in PROPERTIES.items()}


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _snake(name: str) -> str:
    return name.replace("-", "_")

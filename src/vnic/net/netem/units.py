"""Times, percentages and rates as tc and containerlab write them: `10ms`, `0.5%`, `10mbit`; text to integers and back.

`parameters` uses it for each property of a netem.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

from vnic.net.errors import NetError

ALL: Final = 0xFFFF_FFFF
"""100 %, as the kernel's netem has it."""
MAX_TIME_NS: Final = 3600 * 10**9
MAX_RATE: Final = 10**12
"""Bytes per second."""

_NUMBER: Final = r"(\d{1,20}(?:\.\d{0,20})?(?:[eE][+-]?\d{1,2})?)"
_VALUE: Final = re.compile(rf"{_NUMBER}\s*([a-zA-Zµμ%]*)")
_TIMES: Final = {
    **dict.fromkeys(("s", "sec", "secs"), 10**9),
    **dict.fromkeys(("ms", "msec", "msecs"), 10**6),
    **dict.fromkeys(("us", "usec", "usecs", "µs", "μs"), 1000),
    **dict.fromkeys(("ns", "nsec", "nsecs"), 1),
}
_RATES: Final = {
    f"{prefix}{'i' if binary else ''}{unit}".lower(): bits * (1024 if binary else 1000) ** power
    for unit, bits in (("bit", 1), ("Bps", 8))
    for power, prefix in enumerate(("", "K", "M", "G", "T"))
    for binary in (False, True)
    if prefix or not binary
}
"""Bits per second, by tc's suffix in lower case: `kbit`, `kibit`, `mbps` (bytes)."""
_SHOWN_TIMES: Final = (("s", 10**9), ("ms", 10**6), ("us", 1000), ("ns", 1))
_SHOWN_RATES: Final = (("tbit", 10**12), ("gbit", 10**9), ("mbit", 10**6), ("kbit", 1000), ("bit", 1))


def _parse(name: str, text: str, what: str) -> tuple[Fraction, str]:
    found = _VALUE.fullmatch(text.strip())
    if found is None:
        raise refusal(name, what, text)
    return Fraction(Decimal(found[1])), found[2]


def refusal(name: str, what: str, value: object) -> NetError:
    """The error about a value that a property does not take."""
    shown = f"{value}"
    return NetError(
        f"Parameter '{name}' expects {what}, not '{shown if len(shown) < 80 else shown[:77] + '...'}'"
    )


def parse_time(name: str, text: str) -> int:
    """`10ms` in nanoseconds. A number needs a unit, for tc and containerlab take another one without; only 0 has none.

    NetError, with `name` and the text, for anything else, as with the next functions."""
    what = "a time with its unit, from 0 to 3600s, as 10ms"
    number, unit = _parse(name, text, what)
    scale = _TIMES.get(unit.lower(), 0)
    if (not scale and (unit or number)) or number * scale > MAX_TIME_NS:
        raise refusal(name, what, text)
    return round(number * scale)


def parse_percent(name: str, text: str) -> int:
    """`0.5%` or `0.5` as a part of ALL."""
    what = "a percentage from 0% to 100%"
    number, unit = _parse(name, text, what)
    if unit not in ("", "%") or number > 100:
        raise refusal(name, what, text)
    return round(number * ALL / 100)


def parse_rate(name: str, text: str) -> int:
    """`10mbit` in bytes per second, 0 for none. A number needs a unit: tc takes bit/s without, containerlab kbit/s."""
    what = "a rate with its unit, from 8bit to 8tbit, as 10mbit"
    number, unit = _parse(name, text, what)
    scale = _RATES.get(unit.lower(), 0)
    rate = number * scale / 8
    if (not scale and (unit or number)) or (rate and not 1 <= rate <= MAX_RATE):
        raise refusal(name, what, text)
    return int(rate)


def _decimal(value: int, scale: int) -> str:
    return f"{(Decimal(value) / scale).normalize():f}"


def show_time(ns: int) -> str:
    """`10ms`; parse_time gives the same number."""
    unit, scale = next((each for each in _SHOWN_TIMES if ns >= each[1]), ("s", 1))
    return f"{_decimal(ns, scale)}{unit}"


def show_percent(part: int) -> str:
    """`0.5%`, rounded as tc prints it."""
    return f"{100 * part / ALL:g}%"


def show_rate(rate: int) -> str:
    """`10mbit`; parse_rate gives the same number. 0 is no rate."""
    bits = rate * 8
    unit, scale = next((each for each in _SHOWN_RATES if bits >= each[1]), ("bit", 1))
    return f"{_decimal(bits, scale)}{unit}"

"""Texts of peers, guests and other vnics, made safe for a terminal where they are printed.

Names, models and texts are kept, and sent as JSON, as they came; every place that prints for a person asks here. An
escape sequence in a name could otherwise clear the screen, or have the terminal type.
"""

from __future__ import annotations

from typing import TypeVar, cast

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

T = TypeVar("T")


def one_line(text: str) -> str:
    """`text` without control characters, line ends and what else does not show, as marks that turn the direction."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else REPLACEMENT for char in text)


def lines(text: str) -> str:
    """The same for a text of several lines, which end with LF, and may hold tabs."""
    return "".join(char if char.isprintable() or char in "\n\t" else REPLACEMENT for char in text)


def printable(value: T) -> T:
    """A value of JSON with all its strings as `one_line` has them."""
    if isinstance(value, str):
        return cast(T, one_line(value))
    if isinstance(value, dict):
        return cast(T, {printable(key): printable(each) for key, each in value.items()})
    if isinstance(value, list):
        return cast(T, [printable(each) for each in value])
    return value

"""Makes texts of peers, guests and other vnics safe for a terminal.

All code that prints to a terminal or a log calls it: an escape sequence in a name could clear the screen or inject
input. Stored texts and JSON keep the original.
"""

from __future__ import annotations

from typing import TypeVar, cast

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

T = TypeVar("T")


def one_line(text: str) -> str:
    """`text` without control characters, line ends and other invisible characters, such as bidirectional marks."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else REPLACEMENT for char in text)


def lines(text: str) -> str:
    """The same for a text of several lines that end with LF; tabs stay."""
    return "".join(char if char.isprintable() or char in "\n\t" else REPLACEMENT for char in text)


def printable(value: T) -> T:
    """A JSON value with `one_line` applied to all its strings."""
    if isinstance(value, str):
        return cast(T, one_line(value))
    if isinstance(value, dict):
        return cast(T, {printable(key): printable(each) for key, each in value.items()})
    if isinstance(value, list):
        return cast(T, [printable(each) for each in value])
    return value

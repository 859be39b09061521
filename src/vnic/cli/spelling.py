"""Words that are nearly right: ` (did you mean 'nic0'?)`, the end of an error about a misspelt name.

All verbs call it. difflib is imported late: most commands have nothing misspelt.
"""

from __future__ import annotations

from collections.abc import Iterable

_CUTOFF = 0.65


def closest(word: str, known: Iterable[str]) -> str | None:
    """The most similar of `known`, if one is."""
    import difflib

    found = difflib.get_close_matches(word, list(known), 1, _CUTOFF)
    return found[0] if found else None


def meant(near: str | None) -> str:
    return "" if near is None else f" (did you mean '{near}'?)"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to an error about `word`, which is none of `known`."""
    return meant(closest(word, known))

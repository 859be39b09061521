"""`-journal` of `vnic run`: its text in, a JournalChoice or a NetError out. `options` calls it."""

from __future__ import annotations

from vnic.cli.ages import age_seconds
from vnic.cli.plain_words import plain_words
from vnic.machine.journal import JournalChoice
from vnic.net.errors import NetError

MAX_COUNT = 1_000_000_000
_KEYS = ("path", "max-count", "max-age")


def parse_journal(text: str) -> JournalChoice:
    """`PATH` with its bounds, or `none`; a file of that name is `./none`."""
    tree = plain_words(text, "path", _KEYS)
    path = tree.get("path")
    if path == "none":
        if len(tree) > 1:
            raise NetError("'none' keeps no journal: it takes no bounds")
        return JournalChoice(on=False)
    default = JournalChoice()
    return JournalChoice(
        path=None if path is None else str(path),
        max_count=_count(str(tree["max-count"])) if "max-count" in tree else default.max_count,
        max_age_s=_age(str(tree["max-age"])) if "max-age" in tree else default.max_age_s,
    )


def _count(text: str) -> int:
    valid = text.isascii() and text.isdigit() and len(text) < 20
    if not valid or not 1 <= int(text) <= MAX_COUNT:
        raise NetError(f"Parameter 'max-count' expects a number from 1 to {MAX_COUNT}, not '{text}'")
    return int(text)


def _age(text: str) -> float:
    try:
        return age_seconds(text)
    except ValueError as error:
        raise NetError(f"Parameter 'max-age': {error}") from None

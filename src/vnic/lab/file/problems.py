"""What is wrong in a lab file, and what is ignored, with the line and the key; `load` and `check` collect it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import msgspec

from vnic.lab.file.marks import Item, Path

MAX_SHOWN: Final = 50
"""Problems of one file that are kept; a file may have one for each of its lines."""

IGNORED: Final = "of containerlab, and ignored"
"""What a note says of keys that mean nothing here."""

_AT = re.compile(r" - at `(?P<path>\$[^`]*)`$")
_PART = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]")

Made = TypeVar("Made", bound=msgspec.Struct)


class Problem(msgspec.Struct, frozen=True):
    """One finding. `key` is its place in words, as `nodes.a.memory`."""

    line: int
    column: int
    key: str
    text: str

    def __str__(self) -> str:
        return (
            f"{self.line}:{self.column}: {self.key}: {self.text}"
            if self.key
            else f"{self.line}:{self.column}: {self.text}"
        )


class BadLab(Exception):
    """The file is no lab; `problems` says why, in the order of its lines."""

    def __init__(self, problems: list[Problem], name: str = "") -> None:
        super().__init__("\n".join(f"{name}:{problem}" if name else str(problem) for problem in problems))
        self.problems = problems


class Findings:
    """The errors and the notes of one file."""

    def __init__(self, root: Item) -> None:
        self._root = root
        self.errors: list[Problem] = []
        self.notes: list[Problem] = []

    def error(self, path: Path, text: str) -> None:
        if len(self.errors) < MAX_SHOWN:
            self.errors.append(self._problem(path, text))

    def note(self, path: Path, text: str) -> None:
        if len(self.notes) < MAX_SHOWN:
            self.notes.append(self._problem(path, text))

    def _problem(self, path: Path, text: str) -> Problem:
        return Problem(*self._root.at(path), words(path), text)

    def raise_errors(self) -> None:
        if self.errors:
            raise BadLab(sorted(self.errors, key=lambda each: (each.line, each.column)))

    # -- reading ------------------------------------------------------------------------------------------------

    def keys(
        self,
        item: Item,
        path: Path,
        kind: type[Made],
        ignored: Iterable[str] = (),
        noted: Iterable[str] | None = None,
    ) -> Made | None:
        """A mapping of the file as a Struct; None, and errors, if it is none. Keys in `ignored` become a note, those in
        `noted` only if that is given."""
        if not isinstance(item.value, dict):
            self.error(path, f"a mapping is expected, not {named(item.value)}")
            return None
        known = kind.__struct_encode_fields__
        given: dict[str, Any] = {}
        left_out = []
        right = True
        for key, each in item.value.items():
            if key in known:
                given[key] = each.plain()
            elif key in ignored:
                left_out += [key] if noted is None or key in noted else []
            else:
                right = False
                self.error((*path, key), f"unknown key{meant(key, known)}")
        if left_out:
            self.note((*path, left_out[0]), f"{IGNORED}: {', '.join(left_out)}")
        return self.convert(given, path, kind) if right else None

    def convert(self, given: object, path: Path, kind: type[Made]) -> Made | None:
        """Plain values as a Struct; None, and an error, if they are none."""
        try:
            return msgspec.convert(given, kind)
        except msgspec.ValidationError as error:
            text = str(error)
            inner: Path = ()
            if found := _AT.search(text):
                text = text[: found.start()]
                inner = tuple(int(index) if index else key for key, index in _PART.findall(found["path"]))
            self.error((*path, *inner), text[:1].lower() + text[1:])
            return None


def words(path: Path) -> str:
    """A path as text: `links[2].endpoints[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def meant(word: str, known: Iterable[str]) -> str:
    """A suggestion for a misspelt word, with its punctuation; empty if none is near."""
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def named(value: object) -> str:
    """What kind of value it is, for a person."""
    if value is None:
        return "nothing"
    return {dict: "a mapping", list: "a list", bool: "a boolean", str: "text"}.get(type(value), "a number")

"""Reads YAML into plain values that know their line and column, within bounds; `load` calls it.

Scalars are those of YAML 1.2's core schema, as containerlab has them: `no` and `1:30` are text. Keys are always text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

MAX_BYTES: Final = 4 << 20
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 500_000
"""Values of a file, those behind its aliases counted each time."""

Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_WORDS: Final[dict[str, object]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class BadYaml(Exception):
    """The text is no YAML, or is beyond the bounds. `line` and `column` count from 1."""

    def __init__(self, text: str, line: int = 1, column: int = 1) -> None:
        super().__init__(text)
        self.text, self.line, self.column = text, line, column


@dataclass(slots=True)
class Item:
    """A value and where it stands. `value` is a dict or a list of Items, or a scalar; `keys` says where keys stand."""

    value: Any
    line: int
    column: int
    keys: dict[str, tuple[int, int]] | None = None
    size: int = 1
    """The values in it, itself included."""

    def plain(self) -> Any:
        """The value without marks."""
        if isinstance(self.value, dict):
            return {key: each.plain() for key, each in self.value.items()}
        if isinstance(self.value, list):
            return [each.plain() for each in self.value]
        return self.value

    def at(self, path: Path) -> tuple[int, int]:
        """The line and column of what the path leads to, or of the last of its parts that exists."""
        found, place = self, (self.line, self.column)
        for part in path:
            if isinstance(part, str) and isinstance(found.value, dict) and part in found.value:
                place = (found.keys or {}).get(part, place)
                found = found.value[part]
            elif isinstance(part, int) and isinstance(found.value, list) and part < len(found.value):
                found = found.value[part]
                place = (found.line, found.column)
            else:
                break
        return place


def parse(text: str) -> Item:
    """The only document of `text`. BadYaml for anything else."""
    import yaml

    if len(text) > MAX_BYTES:
        raise BadYaml(f"the file is larger than {MAX_BYTES >> 20} MiB")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Composer(yaml.parse(text, Loader=loader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = error.problem or str(error)
        raise BadYaml(text, *((mark.line + 1, mark.column + 1) if mark else ())) from None
    except yaml.YAMLError as error:
        raise BadYaml(str(error).splitlines()[0]) from None


class _Composer:
    """Makes Items of the parser's events: PyYAML's own composer recurses without a bound and shares no limit."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, Item] = {}

    def document(self) -> Item:
        import yaml

        root: Item | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise BadYaml("the file has more than one document", *_place(event))
                root = self._value(next(self._events), 0)
        if root is None:
            raise BadYaml("the file is empty")
        return root

    def _value(self, event: Any, depth: int) -> Item:
        import yaml

        line, column = _place(event)
        anchor = event.anchor
        if depth > MAX_DEPTH:
            raise BadYaml(f"values are nested deeper than {MAX_DEPTH}", line, column)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in self._anchors:  # also one whose value is not complete: a circle
                raise BadYaml(f"the alias '{anchor}' has no value before it", line, column)
            return self._anchors[anchor]
        if isinstance(event, yaml.ScalarEvent):
            item = Item(_scalar(event, line, column), line, column)
        elif isinstance(event, yaml.SequenceStartEvent):
            item = Item([], line, column)
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                each = self._value(event, depth + 1)
                item.value.append(each)
                self._grow(item, each)
        else:
            item = self._mapping(line, column, depth)
        if anchor is not None:
            self._anchors[anchor] = item
        return item

    def _mapping(self, line: int, column: int, depth: int) -> Item:
        import yaml

        values: dict[str, Item] = {}
        keys: dict[str, tuple[int, int]] = {}
        item = Item(values, line, column, keys)
        merged: list[Item] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = _place(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise BadYaml("a key is not text", *place)
            each = self._value(next(self._events), depth + 1)
            self._grow(item, each)
            if event.value == "<<" and not event.style:
                merged += each.value if isinstance(each.value, list) else [each]
                continue
            if event.value in values:
                before = keys[event.value][0]
                raise BadYaml(f"the key '{event.value}' is there twice, first in line {before}", *place)
            values[event.value] = each
            keys[event.value] = place
        for each in merged:  # YAML's merge key: what is there wins
            if not isinstance(each.value, dict):
                raise BadYaml("'<<' expects a mapping", each.line, each.column)
            for key, value in each.value.items():
                if key not in values:
                    values[key], keys[key] = value, (each.keys or {})[key]
        return item

    def _grow(self, item: Item, each: Item) -> None:
        item.size += each.size
        if item.size > MAX_VALUES:
            raise BadYaml(
                f"the file, with its aliases, has more than {MAX_VALUES} values", each.line, each.column
            )


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _scalar(event: Any, line: int, column: int) -> object:
    text = event.value
    if event.tag == "tag:yaml.org,2002:str" or event.tag == "!" or (event.tag is None and event.style):
        return text
    if event.tag is not None:
        raise BadYaml(f"the tag '{event.tag}' is not known", line, column)
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text

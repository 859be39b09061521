"""Encodes values as QEMU prints them: ASCII, CRLF, members in the order of its QDict. The monitor calls it.

QEMU's dictionaries are hash tables and print in bucket order, so that `{"return": …, "id": …}` but
`{"id": …, "error": …}`; clients that compare text see no difference here.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator

import msgspec

_BUCKETS = 512
"""QDICT_BUCKET_MAX"""


_KNOWN_MAX = 64
"""The longest key whose bucket is cached: vnic's are shorter, and a client's must not fill the memory."""


def bucket(key: str) -> int:
    """The bucket of a key in a QDict."""
    return _known(key) if len(key) <= _KNOWN_MAX else _hash(key)


_LABELS_MAX = 512
"""The same for all keys of an object together."""


@functools.lru_cache(maxsize=4096)
def _known(key: str) -> int:
    return _hash(key)


def _hash(key: str) -> int:
    """qobject/qdict.c: tdb_hash."""
    raw = key.encode(errors="replace")
    value = 0x238F13AF * len(raw) + sum(byte << (i * 5 % 24) for i, byte in enumerate(raw))
    return (1103515243 * value + 12345) % (1 << 32) % _BUCKETS


def in_qdict_order(members: Iterable[str]) -> list[str]:
    """The keys as QEMU walks them; within a bucket the newest comes first."""
    keys = list(members)
    keys.reverse()
    keys.sort(key=bucket)
    return keys


def _labelled(keys: tuple[str, ...]) -> list[tuple[str, str]]:
    """The keys as QEMU walks them, each with its text and the colon."""
    return [(key, f"{_string(key)}: ") for key in in_qdict_order(keys)]


_known_labels = functools.lru_cache(maxsize=1024)(_labelled)
"""vnic's messages are of a few shapes, which come again and again."""


def _labels(members: dict[str, object]) -> list[tuple[str, str]]:
    keys = tuple(members)
    return _known_labels(keys) if sum(map(len, keys)) <= _LABELS_MAX else _labelled(keys)


_SPECIAL = re.compile(r'["\\\x00-\x1f\x7f-\U0010ffff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    short = _SHORT.get(char)
    if short is not None:
        return short
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF:
        code = 0xFFFD  # a byte of a file name that was no UTF-8
    if code <= 0xFFFF:
        return f"\\u{code:04X}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04X}\\u{0xDC00 | code & 0x3FF:04X}"


def _string(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'  # as nearly all are: quicker than the search
    return f'"{_SPECIAL.sub(_escape, text)}"'


def _text(value: object, indent: str | None) -> str:
    """`indent` is None for one line, otherwise the indentation of the line where the value begins."""
    match value:
        case str():
            return _string(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case None:
            return "null"
        case dict():
            inner = _deeper(indent)
            items = [label + _text(value[key], inner) for key, label in _labels(value)]
            return _join("{}", items, indent)
        case list() | tuple():
            inner = _deeper(indent)
            return _join("[]", [_text(item, inner) for item in value], indent)
        case float():
            # QEMU prints inf for 1e999, which no client can read; this at least comes back as what was sent.
            return f"{value:.17g}" if math.isfinite(value) else "1e999" if value > 0 else "-1e999"
    return _text(msgspec.to_builtins(value), indent)


def _deeper(indent: str | None) -> str | None:
    return None if indent is None else indent + "    "


def _join(brackets: str, items: list[str], indent: str | None) -> str:
    opening, closing = brackets[0], brackets[1]
    if indent is None:
        return opening + ", ".join(items) + closing
    # QEMU breaks the line even between the brackets of an empty object.
    inner = f"\r\n{indent}    "
    return opening + ",".join(inner + item for item in items) + f"\r\n{indent}" + closing


def encode(message: object, pretty: bool = False) -> bytes:
    """One message as it goes over the wire, line end included; msgspec Structs are taken as objects."""
    return (_text(message, "" if pretty else None) + "\r\n").encode("ascii")


PIECE_ITEMS = 16
"""Items of a long list that are encoded at once: less than a millisecond."""


class LongText:
    """A string that is generated in pieces while it is sent."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self.pieces = iter(pieces)


def encode_reply(message: dict[str, object], pretty: bool = False) -> Iterator[bytes]:
    """As `encode`, but in pieces if the value contains a long list, an iterator or a LongText, so that other clients
    are served in between. Iterators run while the pieces are made. Only the last piece ends with the line end."""
    if pretty:
        yield encode(_whole(message), pretty)
        return
    waiting = ""
    for part in _parts(message):
        if waiting:
            yield waiting.encode("ascii")
        waiting = part
    yield (waiting + "\r\n").encode("ascii")


def _is_long(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_is_long, value.values()))
    return isinstance(value, Iterator | LongText) or (isinstance(value, list) and len(value) > PIECE_ITEMS)


def _whole(value: object) -> object:
    """The same with nothing left to be made."""
    if isinstance(value, LongText):
        return "".join(value.pieces)
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    return list(value) if isinstance(value, Iterator) else value


def _parts(value: object) -> Iterator[str]:
    """The text of a value on one line; each part is a piece of the reply."""
    if not _is_long(value):
        yield _text(value, None)
    elif isinstance(value, LongText):
        text = '"'
        for piece in value.pieces:
            yield text + _SPECIAL.sub(_escape, piece)
            text = ""
        yield text + '"'
    elif isinstance(value, dict):
        text = "{"
        for number, (key, label) in enumerate(_labels(value)):
            text += f"{', ' if number else ''}{label}"
            for part in _parts(value[key]):
                yield text + part
                text = ""
        yield text + "}"
    else:
        assert isinstance(value, list | Iterator)
        items, text = iter(value), "["
        while batch := list(itertools.islice(items, PIECE_ITEMS)):
            yield text + ", ".join([_text(item, None) for item in batch])
            text = ", "
        yield ("[" if text == "[" else "") + "]"

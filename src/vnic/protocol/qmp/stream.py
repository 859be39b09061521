"""Parses messages from a byte stream: QEMU's json-streamer.c (the end of a message) and json-parser.c (its value).

A QMP connection feeds its input to a `Stream` and gets values, and a `ParseError` for each malformed piece; the
stream continues after it. Texts, positions and recovery are those of QEMU 11.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from enum import Enum, auto

from vnic.protocol.qmp.tokens import TOKEN_MAX_BYTES, Kind, Lexer, Token

MESSAGE_TOKENS_MAX = 1 << 13
"""QEMU's limit is 2 Mi. A token takes about 100 bytes here, and a client may leave a message unfinished; all clients
wait while a message is parsed."""

NESTING_MAX = 128
"""QEMU's is 1024. Values are parsed, checked and printed recursively, within Python's stack."""

ERROR_TEXT_MAX = 1023
"""Longest text in an error (json-parser.c: `char message[1024]`): a megabyte of garbage is not echoed."""


class ParseError(Exception):
    """A piece of input that is no JSON; `desc` is QEMU's text, for a reply without an id."""

    def __init__(self, desc: str) -> None:
        super().__init__(desc)
        self.desc = desc


class Stream:
    """The messages of one connection."""

    def __init__(self, message_max_bytes: int = TOKEN_MAX_BYTES) -> None:
        self._message_max_bytes = message_max_bytes
        self._lexer = Lexer(message_max_bytes)
        self._reset()

    def _reset(self) -> None:
        self._parser: Parser | None = None
        """Of the unfinished message."""
        self._refused = False
        """Whether the unfinished message is malformed: its error was reported, and its rest is only counted."""
        self._token_count = 0
        self._size_bytes = 0
        self._braces = 0
        self._brackets = 0

    def feed(self, data: bytes) -> Iterator[object | ParseError]:
        """Yield each value that ends in `data`, and a ParseError for each malformed piece.

        Lazy: take everything before the next call.
        """
        start = 0
        while start < len(data):
            end = data.find(b"\n{", start) + 1 or len(data)  # a client that sends many messages sends lines
            part = data[start:end]
            idle = not self._token_count and self._lexer.idle
            whole = _whole_message(part) if idle and len(part) <= self._message_max_bytes else None
            if whole is None:
                yield from self._take(self._lexer.feed(part))
            else:
                yield whole
                self._lexer.pass_over(part)  # for positions in later errors; it does not delay the message
            start = end

    def finish(self) -> Iterator[object | ParseError]:
        """Yield what the end of the input completes, or a ParseError for what it cuts off."""
        yield from self._take(self._lexer.finish())

    def _take(self, tokens: Iterator[Token]) -> Iterator[object | ParseError]:
        for token in tokens:
            try:
                done = self._token(token)
            except ParseError as error:
                yield error
                done = None
                self._refused = True
                self._parser = None
            if token.kind is Kind.ERROR or (token.kind is not Kind.TOO_LONG and self._balanced()):
                self._reset()
            if done is not None:
                yield done.value

    def _balanced(self) -> bool:
        """Whether a message ends here, also one that is none: a bracket too many ends it too."""
        return self._braces < 0 or self._brackets < 0 or self._braces == self._brackets == 0

    def _token(self, token: Token) -> _Done | None:
        """Take one token (json_message_process_token); what it completes. Raises ParseError."""
        match token.kind:
            case Kind.LCURLY:
                self._braces += 1
            case Kind.RCURLY:
                self._braces -= 1
            case Kind.LSQUARE:
                self._brackets += 1
            case Kind.RSQUARE:
                self._brackets -= 1
            case Kind.END if self._parser is None:
                return None
        if self._refused:
            return None
        if token.kind is Kind.TOO_LONG:
            raise ParseError("JSON token size limit exceeded")
        self._token_count += 1
        self._size_bytes += len(token.text)
        self._check_limits()
        if self._parser is None:
            self._parser = Parser()
        return self._parser.feed(token)

    def _check_limits(self) -> None:
        if self._size_bytes > self._message_max_bytes:
            raise ParseError("JSON token size limit exceeded")
        if self._token_count > MESSAGE_TOKENS_MAX:
            raise ParseError("JSON token count limit exceeded")
        if self._braces + self._brackets > NESTING_MAX:
            raise ParseError("JSON nesting depth limit exceeded")


def decode(text: str) -> object:
    """The one value that a text is, as an option's or a command's (qobject/qjson.c: qobject_from_json).

    Raises ParseError.
    """
    stream = Stream()
    found = [*stream.feed(text.encode(errors="surrogateescape")), *stream.finish()]
    if not found:
        raise ParseError("Expecting a JSON value")
    if isinstance(found[0], ParseError):
        raise found[0]
    if len(found) > 1:
        raise ParseError("Expecting at most one JSON value")
    return found[0]


class _Done:
    """A parsed value; None is one too."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Due(Enum):
    """What may come next in a message."""

    VALUE = auto()
    ITEM_OR_END = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_IN_OBJECT = auto()
    COMMA_IN_ARRAY = auto()


_OTHERWISE = {
    Due.VALUE: "expecting value",
    Due.ITEM_OR_END: "expecting value",
    Due.KEY: "expecting key",
    Due.KEY_OR_END: "expecting key",
    Due.COLON: "expecting ':'",
    Due.COMMA_IN_OBJECT: "expected ',' or '}'",
    Due.COMMA_IN_ARRAY: "expected ',' or ']'",
}
"""QEMU's texts for anything else."""


class Parser:
    """Takes the tokens of one message as they come (json-parser.c). The first error ends it."""

    def __init__(self) -> None:
        self._due = Due.VALUE
        self._open: list[dict[str, object] | list[object]] = []
        """Objects and arrays that are not closed yet, the innermost last."""
        self._keys: list[str] = []
        """Of each open object whose value is due or unfinished, the key."""

    def feed(self, token: Token) -> _Done | None:
        """Take a token: the message, if it ends it. Raises ParseError, placed at this token."""
        try:
            return self._take(token)
        except _Unfit as unfit:
            text = f"{unfit}"[:ERROR_TEXT_MAX]
            raise ParseError(f"{token.line}:{token.column}: JSON parse error, {text}") from None

    def _take(self, token: Token) -> _Done | None:
        kind = token.kind
        if kind is Kind.ERROR:
            raise _Unfit(f"stray '{token.text.split(bytes(1))[0].decode(errors='replace')}'")
        if kind is Kind.END:
            raise _Unfit("premature end of input")
        match self._due, kind:
            case ((Due.KEY | Due.KEY_OR_END), Kind.STRING):
                self._keys.append(parse_string(token.text))
                self._due = Due.COLON
            case Due.COLON, Kind.COLON:
                self._due = Due.VALUE
            case Due.COMMA_IN_OBJECT, Kind.COMMA:
                self._due = Due.KEY
            case Due.COMMA_IN_ARRAY, Kind.COMMA:
                self._due = Due.VALUE
            case ((Due.COMMA_IN_OBJECT | Due.KEY_OR_END), Kind.RCURLY):
                return self._complete(self._open.pop())
            case ((Due.COMMA_IN_ARRAY | Due.ITEM_OR_END), Kind.RSQUARE):
                return self._complete(self._open.pop())
            case ((Due.VALUE | Due.ITEM_OR_END), Kind.LCURLY):
                self._open.append({})
                self._due = Due.KEY_OR_END
            case ((Due.VALUE | Due.ITEM_OR_END), Kind.LSQUARE):
                self._open.append([])
                self._due = Due.ITEM_OR_END
            case ((Due.VALUE | Due.ITEM_OR_END), (Kind.STRING | Kind.INTEGER | Kind.FLOAT | Kind.KEYWORD)):
                return self._complete(_SCALARS[kind](token.text))
            case due, _:
                raise _Unfit(_OTHERWISE[due])
        return None

    def _complete(self, value: object) -> _Done | None:
        """Put a complete value into what it is in."""
        if not self._open:
            return _Done(value)
        around = self._open[-1]
        if isinstance(around, list):
            around.append(value)
            self._due = Due.COMMA_IN_ARRAY
            return None
        key = self._keys.pop()
        if key in around:
            raise _Unfit("duplicate key")
        around[key] = value
        self._due = Due.COMMA_IN_OBJECT
        return None


class _Unfit(Exception):
    """The error in a token, without its position."""


def _integer(text: bytes) -> int | float:
    """An int where it fits 64 bits, signed or unsigned, else a float (json-parser.c: parse_literal)."""
    if len(text) <= 20:
        number = int(text)
        if -(1 << 63) <= number < 1 << 64:
            return number
    return float(text)


_KEYWORDS = {b"true": True, b"false": False, b"null": None}


def _keyword(text: bytes) -> bool | None:
    if text not in _KEYWORDS:
        raise _Unfit(f"invalid keyword '{text.decode()}'")
    return _KEYWORDS[text]


_ESCAPE = re.compile(rb"\\u|\\(.)", re.DOTALL)
_SIMPLE_ESCAPES = {
    b'"': '"',
    b"'": "'",
    b"\\": "\\",
    b"/": "/",
    b"b": "\b",
    b"f": "\f",
    b"n": "\n",
    b"r": "\r",
    b"t": "\t",
}
_HEX4 = re.compile(rb"[0-9A-Fa-f]{4}")
_NONCHARACTER = re.compile(
    "[\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
    + "]"
)


def parse_string(token: bytes) -> str:
    """The text of a string token, quotes and all (json-parser.c: parse_string).

    The bytes are modified UTF-8 (NUL may be C0 80); surrogates and noncharacters are refused.
    """
    parts = []
    at, end = 1, len(token) - 1
    while at < end:
        escape = _ESCAPE.search(token, at, end)
        parts.append(_utf8(token[at : escape.start() if escape else end]))
        if escape is None:
            break
        if escape[1] is None:
            char, at = _unicode_escape(token, escape.start())
            parts.append(char)
            continue
        if escape[1] not in _SIMPLE_ESCAPES:
            raise _Unfit("invalid escape sequence in string")
        parts.append(_SIMPLE_ESCAPES[escape[1]])
        at = escape.end()
    return "".join(parts)


def _utf8(raw: bytes) -> str:
    try:
        text = raw.replace(b"\xc0\x80", b"\0").decode()
    except UnicodeDecodeError:
        raise _Unfit("invalid UTF-8 sequence in string") from None
    if not text.isascii() and _NONCHARACTER.search(text):
        raise _Unfit("invalid UTF-8 sequence in string")
    return text


def _unicode_escape(token: bytes, start: int) -> tuple[str, int]:
    r"""The character of the `\uXXXX` at `start`, or of a surrogate pair of them, and the position after it."""
    code = _hex4(token, start + 2)
    at = start + 6
    if 0xD800 <= code <= 0xDBFF and token[at : at + 2] == b"\\u":
        trailing = _hex4(token, at + 2)
        if 0xDC00 <= trailing <= 0xDFFF:
            return _character(0x10000 + ((code & 0x3FF) << 10 | trailing & 0x3FF), token, start, at + 6)
    return _character(code, token, start, at)


def _hex4(token: bytes, at: int) -> int:
    digits = _HEX4.match(token, at)
    return int(digits[0], 16) if digits else -1


def _character(code: int, token: bytes, start: int, end: int) -> tuple[str, int]:
    if code < 0 or 0xD800 <= code <= 0xDFFF or _NONCHARACTER.match(chr(code)):
        raise _Unfit(f"{token[start:end].decode(errors='replace')} is not a valid Unicode character")
    return chr(code), end


_SCALARS: dict[Kind, Callable[[bytes], object]] = {
    Kind.STRING: parse_string,
    Kind.INTEGER: _integer,
    Kind.FLOAT: float,
    Kind.KEYWORD: _keyword,
}


# -- the common case -------------------------------------------------------------------------------------------


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _refuse(text: str) -> object:
    raise ValueError(text)  # NaN and Infinity are not JSON


def _float(text: str) -> float:
    if text.lstrip("-").startswith(("0e", "0E")):
        raise ValueError(text)  # two tokens for QEMU's lexer: it takes no exponent behind a lone zero
    return float(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs,
    parse_int=lambda text: _integer(text.encode()),
    parse_float=_float,
    parse_constant=_refuse,
)


def _whole_message(data: bytes) -> object | None:
    """The object that `data` is, if it is exactly one in plain JSON, as nearly every client writes it; else None.

    Only a shorter way through the C parser of the standard library: where its grammar could differ from the
    tables' (escapes, other than ASCII, deep nesting), and on any error, the tables decide.
    """
    if not data.startswith(b"{") or not data.isascii() or b"\\" in data:
        return None
    if len(data) > NESTING_MAX and data.count(b"{") + data.count(b"[") > NESTING_MAX:
        return None
    try:
        value, end = _DECODER.raw_decode(data.decode("ascii"))
    except ValueError:
        return None
    return value if not data[end:].strip(b" \t\r\n") else None

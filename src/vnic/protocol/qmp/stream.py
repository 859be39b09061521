"""Messages out of a byte stream: QEMU's json-streamer.c (where one ends) and json-parser.c (what it means).

A QMP connection feeds what it reads to a `Stream` and gets back values, and a `ParseError` for each piece that
was none; the stream goes on after it. Texts and recovery are those of QEMU up to 10.2; 11 puts a position in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from vnic.protocol.qmp.tokens import TOKEN_MAX_BYTES, Kind, Lexer

MESSAGE_TOKENS_MAX = 1 << 13
"""QEMU's is 2 Mi. A token costs about 100 bytes here, and a client may keep a message unfinished for ever; everybody
waits while they are parsed and echoed."""

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
        self._tokens: list[tuple[Kind, bytes]] = []
        self._size_bytes = 0
        self._braces = 0
        self._brackets = 0

    def feed(self, data: bytes) -> Iterator[object | ParseError]:
        """Yield each value that ends in `data`, and a ParseError for each malformed piece.

        Lazy: take everything before the next call.
        """
        if not self._tokens and self._lexer.idle and len(data) <= self._message_max_bytes:
            whole = _whole_message(data)
            if whole is not None:
                yield whole
                return
        yield from self._take(self._lexer.feed(data))

    def finish(self) -> Iterator[object | ParseError]:
        """Yield what the end of the input completes, or a ParseError for what it cuts off."""
        yield from self._take(self._lexer.finish())
        if self._tokens:
            cut_off = self._parsed()
            assert isinstance(cut_off, ParseError)  # a complete message was yielded with its last token
            self._reset()
            yield cut_off

    def _take(self, tokens: Iterator[tuple[Kind, bytes]]) -> Iterator[object | ParseError]:
        for kind, text in tokens:
            done = self._token(kind, text)
            if done is not None:
                self._reset()
                yield done.value if isinstance(done, _Done) else done

    def _parsed(self) -> _Done | ParseError:
        try:
            return _Done(Parser(self._tokens).parse())
        except ParseError as error:
            return error

    def _token(self, kind: Kind, text: bytes) -> _Done | ParseError | None:
        """Take one token (json_message_process_token); what it completes."""
        match kind:
            case Kind.LCURLY:
                self._braces += 1
            case Kind.RCURLY:
                self._braces -= 1
            case Kind.LSQUARE:
                self._brackets += 1
            case Kind.RSQUARE:
                self._brackets -= 1
            case Kind.ERROR:
                stray = text.split(b"\0")[0].decode(errors="replace")
                return ParseError(f"JSON parse error, stray '{stray[:ERROR_TEXT_MAX]}'")
            case Kind.TOO_LONG:
                return ParseError("JSON token size limit exceeded")
        self._tokens.append((kind, text))
        self._size_bytes += len(text)
        limit = self._exceeded()
        if limit is not None:
            self._lexer.skip()
            return ParseError(f"JSON {limit} limit exceeded")
        if self._braces < 0 or self._brackets < 0 or self._braces == self._brackets == 0:
            return self._parsed()
        return None

    def _exceeded(self) -> str | None:
        """The limit that what was gathered exceeds, by the name that QEMU's text gives it."""
        if self._size_bytes > self._message_max_bytes:
            return "token size"
        if len(self._tokens) > MESSAGE_TOKENS_MAX:
            return "token count"
        if self._braces + self._brackets > NESTING_MAX:
            return "nesting depth"
        return None


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


class Parser:
    """Recursive descent over the tokens of one message (json-parser.c). The first error wins."""

    def __init__(self, tokens: list[tuple[Kind, bytes]]) -> None:
        self._tokens = iter(tokens)
        self._kind, self._text = next(self._tokens)

    def _advance(self) -> None:
        self._kind, self._text = next(self._tokens, (Kind.END, b""))

    def _unfit(self, text: str) -> ParseError:
        """The error for the current token, which is not what is due here."""
        return _parse_error("premature EOI" if self._kind is Kind.END else text)

    def parse(self) -> object:
        """parse_value: the value that starts at the current token; the token after it becomes the current one."""
        kind, text = self._kind, self._text
        match kind:
            case Kind.LCURLY:
                return self._object()
            case Kind.LSQUARE:
                return self._array()
            case Kind.STRING:
                value: object = parse_string(text)
            case Kind.INTEGER:
                value = _integer(text)
            case Kind.FLOAT:
                value = float(text)
            case Kind.KEYWORD:
                value = _keyword(text)
            case _:
                raise self._unfit("expecting value")
        self._advance()
        return value

    def _object(self) -> dict[str, object]:
        members: dict[str, object] = {}
        self._advance()
        if self._kind is Kind.RCURLY:
            self._advance()
            return members
        while True:
            key = self.parse()
            if not isinstance(key, str):
                raise _parse_error("key is not a string in object")
            if self._kind is not Kind.COLON:
                raise self._unfit("missing : in object pair")
            self._advance()
            value = self.parse()
            if key in members:
                raise _parse_error("duplicate key")
            members[key] = value
            if not self._more(Kind.RCURLY, "dict"):
                return members

    def _array(self) -> list[object]:
        items: list[object] = []
        self._advance()
        if self._kind is Kind.RSQUARE:
            self._advance()
            return items
        while True:
            items.append(self.parse())
            if not self._more(Kind.RSQUARE, "list"):
                return items

    def _more(self, closer: Kind, what: str) -> bool:
        """Step over a comma (True) or the closing bracket (False)."""
        kind = self._kind
        if kind not in (closer, Kind.COMMA):
            raise self._unfit(f"expected separator in {what}")
        self._advance()
        return kind is Kind.COMMA


def _parse_error(text: str) -> ParseError:
    return ParseError(f"JSON parse error, {text[:ERROR_TEXT_MAX]}")


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
        raise _parse_error(f"invalid keyword '{text.decode()}'")
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
            raise _parse_error("invalid escape sequence in string")
        parts.append(_SIMPLE_ESCAPES[escape[1]])
        at = escape.end()
    return "".join(parts)


def _utf8(raw: bytes) -> str:
    try:
        text = raw.replace(b"\xc0\x80", b"\0").decode()
    except UnicodeDecodeError:
        raise _parse_error("invalid UTF-8 sequence in string") from None
    if not text.isascii() and _NONCHARACTER.search(text):
        raise _parse_error("invalid UTF-8 sequence in string")
    return text


def _unicode_escape(token: bytes, start: int) -> tuple[str, int]:
    r"""The character of the `\uXXXX` at `start`, or of a surrogate pair of them, and where the text goes on."""
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
        raise _parse_error(f"{token[start:end].decode(errors='replace')} is not a valid Unicode character")
    return chr(code), end


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
    if data.count(b"{") + data.count(b"[") > NESTING_MAX:
        return None
    try:
        value, end = _DECODER.raw_decode(data.decode("ascii"))
    except ValueError:
        return None
    return value if not data[end:].strip(b" \t\r\n") else None

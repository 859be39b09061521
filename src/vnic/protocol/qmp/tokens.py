"""The lexer: chunks of bytes to tokens, by the state table of QEMU's qobject/json-lexer.c.

`stream.py` drives it. It keeps at most one unfinished token, looks at each byte once however the input is cut,
and resynchronises after an error where QEMU does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

TOKEN_MAX_BYTES = 1 << 15
"""Limit on a token and on a message. QEMU's is 64 MiB; no command needs a thousandth of that, and 1 MiB of escapes
would block all clients for a second."""


class Kind(Enum):
    """The kinds of tokens (JSONTokenType)."""

    LCURLY = auto()
    RCURLY = auto()
    LSQUARE = auto()
    RSQUARE = auto()
    COLON = auto()
    COMMA = auto()
    STRING = auto()
    INTEGER = auto()
    FLOAT = auto()
    KEYWORD = auto()
    ERROR = auto()
    TOO_LONG = auto()
    """A token is beyond TOKEN_MAX_BYTES. The token itself follows where it ends, without its bytes."""
    END = auto()
    """The token after the last one, at the end of the input."""


class LexerState(Enum):
    """The lexer's state within a token (enum json_lexer_state)."""

    START = auto()
    RECOVERY = auto()
    DQ_STRING = auto()
    DQ_ESCAPE = auto()
    SQ_STRING = auto()
    SQ_ESCAPE = auto()
    SIGN = auto()
    ZERO = auto()
    DIGITS = auto()
    MANTISSA = auto()
    MANTISSA_DIGITS = auto()
    EXPONENT = auto()
    EXPONENT_SIGN = auto()
    EXPONENT_DIGITS = auto()
    KEYWORD = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """One state: a run of bytes that stay in it, then what each other byte leads to.

    A byte in neither ends the token *before* it if the row has `ends`, and otherwise is an error.
    """

    run: re.Pattern[bytes]
    then: dict[int, LexerState | Kind]
    ends: Kind | LexerState | None = None


_NOTHING = re.compile(rb"")
_DIGITS = re.compile(rb"[0-9]*")


def _each(chars: bytes, target: LexerState | Kind) -> dict[int, LexerState | Kind]:
    return dict.fromkeys(chars, target)


_DIGIT = b"0123456789"
_ESCAPABLE = bytes(range(0x20, 0xFE))

TABLE: dict[LexerState, Row] = {
    LexerState.START: Row(
        re.compile(rb"[ \t\r\n]*"),
        {
            ord("{"): Kind.LCURLY,
            ord("}"): Kind.RCURLY,
            ord("["): Kind.LSQUARE,
            ord("]"): Kind.RSQUARE,
            ord(":"): Kind.COLON,
            ord(","): Kind.COMMA,
            ord('"'): LexerState.DQ_STRING,
            ord("'"): LexerState.SQ_STRING,
            ord("-"): LexerState.SIGN,
            ord("0"): LexerState.ZERO,
            **_each(b"123456789", LexerState.DIGITS),
            **_each(b"abcdefghijklmnopqrstuvwxyz", LexerState.KEYWORD),
        },
    ),
    # A structural character, a control character but tab, and the bytes that UTF-8 never has are promising.
    LexerState.RECOVERY: Row(re.compile(rb"[^\x00-\x08\x0a-\x1f\xfe\xff\[\]{}:,]*"), {}, LexerState.START),
    LexerState.DQ_STRING: Row(
        re.compile(rb'[^"\\\x00-\x1f\xfe\xff]*'), {ord('"'): Kind.STRING, ord("\\"): LexerState.DQ_ESCAPE}
    ),
    LexerState.DQ_ESCAPE: Row(_NOTHING, _each(_ESCAPABLE, LexerState.DQ_STRING)),
    LexerState.SQ_STRING: Row(
        re.compile(rb"[^'\\\x00-\x1f\xfe\xff]*"), {ord("'"): Kind.STRING, ord("\\"): LexerState.SQ_ESCAPE}
    ),
    LexerState.SQ_ESCAPE: Row(_NOTHING, _each(_ESCAPABLE, LexerState.SQ_STRING)),
    LexerState.SIGN: Row(_NOTHING, {ord("0"): LexerState.ZERO, **_each(b"123456789", LexerState.DIGITS)}),
    LexerState.ZERO: Row(
        _NOTHING, {ord("."): LexerState.MANTISSA, **_each(_DIGIT, Kind.ERROR)}, Kind.INTEGER
    ),
    LexerState.DIGITS: Row(
        _DIGITS, {ord("."): LexerState.MANTISSA, **_each(b"eE", LexerState.EXPONENT)}, Kind.INTEGER
    ),
    LexerState.MANTISSA: Row(_NOTHING, _each(_DIGIT, LexerState.MANTISSA_DIGITS)),
    LexerState.MANTISSA_DIGITS: Row(_DIGITS, _each(b"eE", LexerState.EXPONENT), Kind.FLOAT),
    LexerState.EXPONENT: Row(
        _NOTHING, {**_each(b"+-", LexerState.EXPONENT_SIGN), **_each(_DIGIT, LexerState.EXPONENT_DIGITS)}
    ),
    LexerState.EXPONENT_SIGN: Row(_NOTHING, _each(_DIGIT, LexerState.EXPONENT_DIGITS)),
    LexerState.EXPONENT_DIGITS: Row(_DIGITS, {}, Kind.FLOAT),
    LexerState.KEYWORD: Row(re.compile(rb"[a-z]*"), {}, Kind.KEYWORD),
}

_NO_TOKEN = frozenset({LexerState.START, LexerState.RECOVERY})
"""States whose bytes belong to no token."""


class Token(NamedTuple):
    """A token, and where it starts: the line and the byte in it, both from 1."""

    kind: Kind
    text: bytes
    line: int
    column: int


class Lexer:
    """Cuts a byte stream into tokens; a token that the stream has not ended yet is kept for the next chunk.

    A token's place is counted from the start of the stream. Lines end with a line feed, so a carriage return before
    it counts as one more byte of its line. As in QEMU, a token that follows a number, a keyword or an error without
    a space between is placed one byte too far: the byte that ended the one before is counted first.
    """

    def __init__(self, token_max_bytes: int = TOKEN_MAX_BYTES) -> None:
        self._token_max_bytes = token_max_bytes
        self._state = LexerState.START
        self._text = bytearray()
        self._too_long = False
        self._line = 1
        self._column = 1
        """The position of the next byte."""
        self._start = (1, 1)
        """Where the unfinished token starts."""

    @property
    def idle(self) -> bool:
        """Whether no token is unfinished and no error is being recovered from."""
        return self._state is LexerState.START

    def pass_over(self, data: bytes) -> None:
        """Count bytes that were read in another way."""
        self._advance(data, 0, len(data))

    def _advance(self, data: bytes, start: int, end: int) -> None:
        lines = data.count(b"\n", start, end)
        if lines:
            self._line += lines
            self._column = end - data.rindex(b"\n", start, end)
        else:
            self._column += end - start

    def _token(self, kind: Kind) -> Token:
        token = Token(kind, bytes(self._text), *self._start)
        self._text.clear()
        self._too_long = False
        return token

    def feed(self, data: bytes) -> Iterator[Token]:
        """Yield the tokens that end in `data`. An ERROR's bytes end with the one that was wrong."""
        at = 0
        late = 0  # 1 if the byte at `at` ended the token before
        while at < len(data):
            row = TABLE[self._state]
            match = row.run.match(data, at)
            assert match is not None  # a run may be empty
            end = match.end()
            self._advance(data, at, end)
            if self._state not in _NO_TOKEN and self._append(data[at:end]):
                yield Token(Kind.TOO_LONG, b"", *self._start)
            if self._state is LexerState.START:
                self._start = self._line, self._column + (late if end == at else 0)
            late = 0
            at = end
            if at == len(data):
                return
            target = row.then.get(data[at])
            if target is None and row.ends is not None:
                target = row.ends  # the token ended before this byte, which START looks at again
                late = 1
            else:
                target = target or Kind.ERROR
                self._append(data[at : at + 1])
                self._advance(data, at, at + 1)
                at += 1
            if isinstance(target, LexerState):
                self._state = target
                continue
            self._state = LexerState.RECOVERY if target is Kind.ERROR else LexerState.START
            yield self._token(target)

    def _append(self, more: bytes) -> bool:
        """Keep bytes of the unfinished token; whether it has become too long by them."""
        if self._too_long:
            return False
        self._text += more
        self._too_long = len(self._text) > self._token_max_bytes
        if self._too_long:
            self._text.clear()
        return self._too_long

    def finish(self) -> Iterator[Token]:
        """Yield the token that the end of the input ends, or cuts off (json_lexer_flush), and then END."""
        late = 0
        if self._state not in _NO_TOKEN:
            ends = TABLE[self._state].ends
            yield self._token(ends if isinstance(ends, Kind) else Kind.ERROR)
            late = 1
        self._state = LexerState.START
        yield Token(Kind.END, b"", self._line, self._column + late)

"""Malformed JSON on a monitor: what QEMU 11.1.3 answered to it, captured from the program itself."""

from __future__ import annotations

import pytest

from vnic.protocol.qmp import ParseError, Stream
from vnic.protocol.qmp.stream import MESSAGE_TOKENS_MAX
from vnic.protocol.qmp.tokens import TOKEN_MAX_BYTES

OBSERVED: list[tuple[list[bytes], list[list[str | None]]]] = [
    ([b'{"a" 1}\n'], [["1:6 expecting ':'"]]),
    ([b'{"a":}\n'], [["1:6 expecting value"]]),
    ([b"{1:2}\n"], [["1:2 expecting key"]]),
    ([b"{nope:1}\n"], [["1:2 expecting key"]]),
    ([b'{"\\x":1}\n'], [["1:2 invalid escape sequence in string"]]),
    ([b'{"a":1 "b":2}\n'], [["1:8 expected ',' or '}'"]]),
    ([b'{"a":1"b":2}\n'], [["1:8 expected ',' or '}'"]]),
    ([b'{"a":1,}\n'], [["1:8 expecting key"]]),
    ([b"{,}\n"], [["1:2 expecting key"]]),
    ([b'{{"a":1},2}\n'], [["1:2 expecting key"]]),
    ([b"[1 2]\n"], [["1:4 expected ',' or ']'"]]),
    ([b"[1,]\n"], [["1:4 expecting value"]]),
    ([b"[,]\n"], [["1:2 expecting value"]]),
    ([b"[1,,2]\n"], [["1:4 expecting value"]]),
    ([b'["\xc3\xa9" \xc3\xa9]\n'], [["1:7 stray '�'", "1:10 expecting value"]]),
    ([b"[[1,2],[3 4]]\n"], [["1:11 expected ',' or ']'"]]),
    ([b"}\n"], [["1:1 expecting value"]]),
    ([b",\n"], [["1:1 expecting value"]]),
    ([b"[}\n"], [["1:2 expecting value"]]),
    ([b"{]}\n"], [["1:2 expecting key", "1:3 expecting value"]]),
    ([b"[1}]\n"], [["1:4 expected ',' or ']'", "1:4 expecting value"]]),
    ([b'{"a":[1}]'], [["1:9 expected ',' or ']'"]]),
    ([b'{"execute": nope}\n'], [["1:13 invalid keyword 'nope'"]]),
    ([b'{"a":"\\x"}'], [["1:6 invalid escape sequence in string"]]),
    ([b'{"a":"\\u12"}'], [['1:6 \\u12" is not a valid Unicode character']]),
    ([b'{"a":"\\ud800"}'], [["1:6 \\ud800 is not a valid Unicode character"]]),
    ([b'{"a":"\\ud800\\u0041"}'], [["1:6 \\ud800 is not a valid Unicode character"]]),
    ([b'{"a":"\\ufffe"}'], [["1:6 \\ufffe is not a valid Unicode character"]]),
    ([b'{"a":"\x80"}'], [["1:6 invalid UTF-8 sequence in string"]]),
    ([b'{"a":"\xc3("}'], [["1:6 invalid UTF-8 sequence in string"]]),
    ([b'{"a":"\xed\xa0\x80"}'], [["1:6 invalid UTF-8 sequence in string"]]),
    ([b'{"a":"\xef\xbf\xbf"}'], [["1:6 invalid UTF-8 sequence in string"]]),
    ([b'{"a":1,"a":1}\n'], [["1:12 duplicate key"]]),
    ([b'{"a":1,"a":{"x":2}}\n'], [["1:19 duplicate key"]]),
    ([b'{"a":1,"a":nope}\n'], [["1:12 invalid keyword 'nope'"]]),
    ([b"@@@@@\n"], [["1:1 stray '@'"]]),
    ([b"ABC\n"], [["1:1 stray 'A'"]]),
    ([b"%d\n"], [["1:1 stray '%'"]]),
    ([b"01\n"], [["1:1 stray '01'"]]),
    ([b"-\n"], [["1:1 stray '-\n'"]]),
    ([b"1.\n"], [["1:1 stray '1.\n'"]]),
    ([b"1e\n"], [["1:1 stray '1e\n'"]]),
    ([b'"abc\n'], [["1:1 stray '\"abc\n'"]]),
    ([b"\x00"], [["1:1 stray ''"]]),
    ([b"0e5 "], [[None, "1:3 invalid keyword 'e'", None]]),
    ([b'{"a":0e5}'], [["1:8 expected ',' or '}'"]]),
    ([b"[1@\n"], [["1:4 stray '@'"]]),
    ([b"  \t@ 1}\n"], [["1:4 stray '@'", "1:8 expecting value"]]),
    ([b'{"execute":"a\tb"}\n'], [["1:12 stray '\"a\t'", "1:18 expecting value"]]),
    ([b'{"a":"\xff"}\n'], [["1:6 stray '\"�'", "1:10 expecting value"]]),
    ([b'{"a":\xff}\n'], [["1:6 stray '�'", "1:8 expecting value"]]),
    ([b'{"a":nope,"b":1e}\n', b"\n", b"}\n"], [["1:6 invalid keyword 'nope'"], [], ["3:1 expecting value"]]),
    (
        [b'{"a"\n', b" : \n", b" no", b"pe\n}\n", b"}\n"],
        [[], [], [], ["3:2 invalid keyword 'nope'"], ["5:1 expecting value"]],
    ),
    (
        [b'{"a":1\r', b"\n 2}", b"\n", b"\r\r\r@", b"\n\r\n\r}\n", b"\n\n\n }\n"],
        [
            [],
            ["2:2 expected ',' or '}'"],
            [],
            ["3:4 stray '@'"],
            ["5:2 expecting value"],
            ["9:2 expecting value"],
        ],
    ),
    (
        [b"{}\n{}\n{}\n", b"{} ", b'{"a" 1}', b"[]\r\n", b"{bad}\r\n"],
        [[None, None, None], [None], ["4:9 expecting ':'"], [None], ["5:2 expecting key"]],
    ),
    (
        [b'{"a":"\r\n', b"}\n", b"\xff\n", b"}\n", b"\xff}", b"\x0c}\n", b"\xc3\xa9}\n"],
        [
            ["1:6 stray '\"\r'"],
            ["2:1 expecting value"],
            ["3:1 stray '�'"],
            ["4:1 expecting value"],
            ["5:1 stray '�'", "5:3 expecting value"],
            ["5:3 stray '\x0c'", "5:5 expecting value"],
            ["6:1 stray '�'", "6:4 expecting value"],
        ],
    ),
    (
        [b'{"a":[[bad,', b" @", b" 3],{} ", b"]}\n", b"}\n"],
        [
            ["1:8 invalid keyword 'bad'"],
            [],
            ["1:17 expecting value", "1:17 expecting value", None],
            ["1:21 expecting value", "1:22 expecting value"],
            ["2:1 expecting value"],
        ],
    ),
    (
        [b"[1", b"}", b"[1", b"@", b"\n", b"}"],
        [[], ["1:4 expected ',' or ']'"], [], ["1:7 stray '@'"], [], ["2:1 expecting value"]],
    ),
    (
        [b'{"a":1,@\n', b"{}\n", b"[[bad\n", b"{}\n", b"]]", b"}\n"],
        [["1:8 stray '@'"], [None], ["3:3 invalid keyword 'bad'"], [], [], ["5:3 expecting value"]],
    ),
    (
        [b"tr", b"u", b" tr", b"ue", b"e "],
        [[], [], ["1:1 invalid keyword 'tru'"], [], ["1:5 invalid keyword 'truee'"]],
    ),
    (
        [b"[" * 1025, b"1\n", b"{}\n", b"}\n", b"nope \n"],
        [["JSON nesting depth limit exceeded"], [], [], [], ["4:1 invalid keyword 'nope'"]],
    ),
    (
        [b"[" * 1025 + b"\xff{} bad ", b"]\n"],
        [
            ["JSON nesting depth limit exceeded", None, "1:1030 invalid keyword 'bad'"],
            ["1:1034 expecting value"],
        ],
    ),
    (
        [b'{"a":' * 1025, b"\n", b"}" * 1024, b"nope\n", b"}", b"nope\n"],
        [["JSON nesting depth limit exceeded"], [], [], [], [], ["3:2 invalid keyword 'nope'"]],
    ),
]
"""Reads, and what each was answered: an error's place and text, or None for a message that was one."""


def short(found: object) -> str | None:
    return found.desc.replace(": JSON parse error, ", " ") if isinstance(found, ParseError) else None


@pytest.mark.parametrize(("reads", "answers"), OBSERVED)
def test_parse_errors_are_qemus(reads: list[bytes], answers: list[list[str | None]]) -> None:
    stream = Stream()
    assert [[short(found) for found in stream.feed(read)] for read in reads] == answers


@pytest.mark.parametrize(("reads", "answers"), OBSERVED)
def test_parse_errors_do_not_depend_on_chunks(reads: list[bytes], answers: list[list[str | None]]) -> None:
    stream = Stream()
    bytewise = [short(found) for read in reads for byte in read for found in stream.feed(bytes([byte]))]
    assert bytewise == [answer for each in answers for answer in each]


def test_plain_messages_count_for_positions() -> None:
    """They are read by a shorter way."""
    stream = Stream()
    assert list(stream.feed(b'{"a":\n1}\r\n')) == [{"a": 1}]
    assert list(stream.feed(b'{"b":2}')) == [{"b": 2}]
    assert [short(found) for found in stream.feed(b" }")] == ["3:9 expecting value"]


@pytest.mark.parametrize(
    "beyond",
    [
        b'{"a":"' + b"x" * TOKEN_MAX_BYTES + b'"}',
        b'{"a":["' + b'12345","' * (TOKEN_MAX_BYTES // 5) + b'"]}',
        b"[" + b"1," * MESSAGE_TOKENS_MAX + b"1]",
        b"[" * 1000 + b"]" * 1000,
    ],
)
def test_message_after_too_large_one_is_read(
    beyond: bytes,
) -> None:
    first, *others = Stream().feed(beyond + b'{"a":1}')
    assert isinstance(first, ParseError)
    assert first.desc.endswith("limit exceeded")
    assert others == [{"a": 1}]


def test_too_long_open_string_ends_with_its_line() -> None:
    first, *others = Stream().feed(b'{"a":"' + b"x" * TOKEN_MAX_BYTES * 2 + b'\n{"a":1}\n')
    assert isinstance(first, ParseError)
    assert others == [{"a": 1}]

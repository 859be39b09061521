"""QMP's JSON: values, recovery and bounds; test_qmp_errors.py has what QEMU says to malformed input."""

from __future__ import annotations

import pytest

from vnic.protocol.qmp import (
    ParseError,
    Stream,
    decode,
    encode,
)
from vnic.protocol.qmp.stream import MESSAGE_TOKENS_MAX, NESTING_MAX
from vnic.protocol.qmp.tokens import TOKEN_MAX_BYTES


def feed(data: bytes, stream: Stream | None = None) -> list[object]:
    """Values as they are, errors as their text."""
    found = (stream or Stream()).feed(data)
    return [f"error: {each.desc}" if isinstance(each, ParseError) else each for each in found]


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b"{'a': 'b\"c'}", {"a": 'b"c'}),
        (b'{"a": "b\'c"}', {"a": "b'c"}),
        (b'{\n"a"\t:\r\n[ ]\n}', {"a": []}),
        (b"[true, false, null]", [True, False, None]),
        (b'"\\u00e9\\ud83d\\ude00 \\/\\b\\f\\n\\r\\t\\\\\\"\\\'"', "é😀 /\b\f\n\r\t\\\"'"),
        ('"é😀\x7f"'.encode(), "é😀\x7f"),
        (b'"a\\u0000b\xc0\x80"', "a\0b\0"),
        (b"[18446744073709551615]", [18446744073709551615]),
        (b"[18446744073709551616]", [1.8446744073709552e19]),
        (b"[-9223372036854775809]", [-9.223372036854776e18]),
        (b"[-0, 0.50, 1e3, 1E-2, 12.5e+1]", [0, 0.5, 1000.0, 0.01, 125.0]),
        (b"[" + b"1" * 5000 + b"]", [float("inf")]),
    ],
)
def test_values(data: bytes, value: object) -> None:
    assert feed(data) == [value]


@pytest.mark.parametrize("garbage", [b'{"a": [1, {"b', b"[[[[[", b'"half', b"{'x", b"\\", b"- "])
def test_ff_resynchronises_parser(garbage: bytes) -> None:
    """docs/interop/qmp-spec: a byte that UTF-8 never has forces the parser into a known-good state."""
    *errors, last = feed(garbage + b'\xff\n{"a":1}\n')
    assert last == {"a": 1}
    assert errors
    assert all(str(error).startswith("error: ") for error in errors)


def test_line_holds_several_values_and_value_spans_chunks() -> None:
    stream = Stream()
    assert feed(b'{"a":1}{"b":2} 3 "x"\n', stream) == [{"a": 1}, {"b": 2}, 3, "x"]
    data = b'{"a": ["\xc3\xa9\\u00e9", -12.5e1, tr'
    assert [found for byte in data for found in feed(bytes([byte]), stream)] == []
    assert feed(b"ue]}", stream) == [{"a": ["éé", -125.0, True]}]


@pytest.mark.parametrize("last", [b"{'d': 4}\n", b'{"d": x}\n', b'{"d"', b"\n\n", b'{"d": "\\u0034"}'])
def test_messages_of_one_chunk_are_read_as_byte_by_byte(last: bytes) -> None:
    data = b'{"a":1}\r\n{"b":[{}]}\n {"c":3}\n{"a":1}{"b":2}\n' + last + b'\n{"e":5}\n[}\n'
    stream = Stream()
    singly = [found for at in range(len(data)) for found in feed(data[at : at + 1], stream)]
    assert feed(data) == singly


def test_number_or_keyword_may_span_chunks() -> None:
    stream = Stream()
    assert feed(b"12", stream) == []
    assert feed(b"34 ", stream) == [1234]
    assert feed(b"nul", stream) == []
    assert feed(b"l\n", stream) == [None]


# -- bounds -----------------------------------------------------------------------------------------------------


def test_line_of_100_mb_is_one_error_without_memory() -> None:
    stream = Stream()
    chunk = b"a" * (1 << 16)
    found = feed(b'{"execute":"', stream)
    for _ in range(1600):
        found += feed(chunk, stream)
        assert len(stream._lexer._text) <= TOKEN_MAX_BYTES + len(chunk)
    found += feed(b'"}\n{"a":1}\n', stream)
    assert found == ["error: JSON token size limit exceeded", {"a": 1}]


@pytest.mark.parametrize("letter", [b"\\n", b"\x7f", "é".encode(), b"\\ud83d\\ude00"])
def test_message_at_limit_is_accepted(letter: bytes) -> None:
    text = b'"' + letter * ((TOKEN_MAX_BYTES - 2) // len(letter)) + b'"'
    (value,) = feed(text)
    assert feed(encode([value])) == [[value]] or len(encode([value])) > TOKEN_MAX_BYTES
    assert not str(value).startswith("error")


def test_too_many_tokens_are_one_error() -> None:
    stream = Stream()
    found = feed(b"[" + b"1," * MESSAGE_TOKENS_MAX + b"1]\n", stream)
    assert found == ["error: JSON token count limit exceeded"]
    assert feed(b"[1]\n", stream) == [[1]]


def test_too_large_message_of_small_tokens_is_one_error() -> None:
    stream = Stream(message_max_bytes=1000)
    assert feed(b'["' + b'12345","' * 300 + b'"]\n', stream) == ["error: JSON token size limit exceeded"]
    assert feed(b"[1]\n", stream) == [[1]]


def test_too_deep_nesting_is_one_error() -> None:
    deepest = b"[" * NESTING_MAX + b"]" * NESTING_MAX
    assert len(feed(deepest)) == 1
    assert not str(feed(deepest)[0]).startswith("error")
    assert feed(b"[" * 20_000 + b"]" * 20_000 + b"\n[1]\n") == [
        "error: JSON nesting depth limit exceeded",
        [1],
    ]


def test_bytes_of_long_number_are_read_once() -> None:
    stream = Stream(message_max_bytes=1 << 20)
    for _ in range(100_000):
        assert not feed(b"7", stream)
    assert feed(b" ", stream) == [float("inf")]


def test_error_text_does_not_echo_long_input() -> None:
    (text,) = feed(b"z" * 500_000 + b" ")
    assert len(str(text)) < 1200


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "Expecting a JSON value"),
        ("{", "1:2: JSON parse error, premature end of input"),
        ('{"a"', "1:5: JSON parse error, premature end of input"),
        ('{"a":', "1:6: JSON parse error, premature end of input"),
        ('{"a":[1', "1:9: JSON parse error, premature end of input"),
        ('{"a":[1,', "1:9: JSON parse error, premature end of input"),
        ('{"a":1 ', "1:8: JSON parse error, premature end of input"),
        ("{bad", "1:2: JSON parse error, expecting key"),
        ('{"a":tru}', "1:6: JSON parse error, invalid keyword 'tru'"),
        ('{"a":"', "1:6: JSON parse error, stray '\"'"),
        ('{"a":01}', "1:6: JSON parse error, stray '01'"),
        ('{"a":1} x', "Expecting at most one JSON value"),
        ('{"a":1}}', "Expecting at most one JSON value"),
        ("{]", "1:2: JSON parse error, expecting key"),
        ('{"a":"\udcff"}', "1:6: JSON parse error, stray '\"\N{REPLACEMENT CHARACTER}'"),
    ],
)
def test_invalid_single_value_is_parse_error(text: str, error: str) -> None:
    with pytest.raises(ParseError) as refused:
        decode(text)
    assert refused.value.desc == error


@pytest.mark.parametrize(
    ("text", "value"), [("{'a': 1} \n", {"a": 1}), ("17", 17), ("true", True), ("[0]", [0]), ("null", None)]
)
def test_a_single_value(text: str, value: object) -> None:
    assert decode(text) == value

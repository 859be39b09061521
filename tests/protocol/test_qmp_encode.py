"""What QEMU would print: ASCII, upper-case escapes, 17 digits, CRLF, and its hash tables' order."""

from __future__ import annotations

import json

import msgspec
import pytest

from vnic.protocol.qmp import Stream, encode, encode_reply
from vnic.protocol.qmp.encode import PIECE_ITEMS, _known, _known_labels


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"return": {}}, '{"return": {}}'),
        ("é\x7f😀", '"\\u00E9\\u007F\\uD83D\\uDE00"'),
        ("/\b\f\n\r\t\\\"'\x1f", '"/\\b\\f\\n\\r\\t\\\\\\"\'\\u001F"'),
        ("\udcff", '"\\uFFFD"'),
        ([1, -1, True, False, None], "[1, -1, true, false, null]"),
        (
            [1.5, 0.1, 1e17, 1e-7, 100000.0],
            "[1.5, 0.10000000000000001, 1e+17, 9.9999999999999995e-08, 100000]",
        ),
        ([], "[]"),
    ],
)
def test_encode_equals_observed_texts(value: object, text: str) -> None:
    assert encode(value) == text.encode() + b"\r\n"


def test_members_have_qemus_order() -> None:
    greeting = {
        "QMP": {
            "capabilities": ["oob"],
            "version": {"package": "x", "qemu": {"major": 7, "minor": 2, "micro": 22}},
        }
    }
    assert encode(greeting) == (
        b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, '
        b'"capabilities": ["oob"]}}\r\n'
    )
    assert encode({"event": "E", "data": {}, "timestamp": {"microseconds": 2, "seconds": 1}}) == (
        b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "E", "data": {}}\r\n'
    )
    assert encode({"id": 3, "return": {}}) == b'{"return": {}, "id": 3}\r\n'
    assert encode({"error": {"desc": "d", "class": "c"}, "id": 3}) == (
        b'{"id": 3, "error": {"class": "c", "desc": "d"}}\r\n'
    )
    assert encode({"label": "l", "filename": "f", "frontend-open": True}) == (
        b'{"frontend-open": true, "filename": "f", "label": "l"}\r\n'
    )


def test_pretty_layout_is_qemus() -> None:
    text = encode({"return": {}, "id": [1, {"a": []}]}, pretty=True).decode()
    assert text.split("\r\n") == [
        "{",
        '    "return": {',
        "    },",
        '    "id": [',
        "        1,",
        "        {",
        '            "a": [',
        "            ]",
        "        }",
        "    ]",
        "}",
        "",
    ]


def test_structs_are_objects_without_unset_fields() -> None:
    class Inner(msgspec.Struct, rename="kebab", omit_defaults=True):
        some_name: int
        other: str | None = None

    assert encode({"return": [Inner(1)]}) == b'{"return": [{"some-name": 1}]}\r\n'


def test_infinity_is_encoded_as_json() -> None:
    (value,) = Stream().feed(encode([float("inf"), float("-inf")]))
    assert value == [float("inf"), float("-inf")]
    json.loads(encode([float("inf")]))


def test_long_keys_are_not_cached() -> None:
    keys, objects = _known.cache_info().currsize, _known_labels.cache_info().currsize
    for number in range(10):
        encode({f"{number}" * 1000: 1, "b": 2})
    assert _known.cache_info().currsize <= keys + 1
    assert _known_labels.cache_info().currsize == objects


@pytest.mark.parametrize("pretty", [False, True])
@pytest.mark.parametrize("more", [{}, {"id": [1, "x"]}, {"zzz": 1, "id": {}}])
@pytest.mark.parametrize("items", [0, 1, PIECE_ITEMS, PIECE_ITEMS + 1, 3 * PIECE_ITEMS])
def test_pieces_join_to_same_text(items: int, more: dict[str, object], pretty: bool) -> None:
    message: dict[str, object] = {"return": [{"number": number} for number in range(items)], **more}
    *pieces, last = encode_reply(message, pretty)
    assert b"".join([*pieces, last]) == encode(message, pretty)
    assert bool(pieces) == (items > PIECE_ITEMS and not pretty)
    assert last.endswith(b"\r\n")
    assert not any(piece.endswith(b"\n") for piece in pieces)

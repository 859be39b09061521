"""QMP's parser against arbitrary input: it never raises, never keeps more than its bounds, and cuts do not matter."""

from __future__ import annotations

import itertools
import json

from hypothesis import example, given
from hypothesis import strategies as st
from tests.fakes.monitored_machine import FakeMachine

from vnic.monitor.qmp import Dispatcher, QmpSession
from vnic.protocol.qmp import (
    ParseError,
    Stream,
    decode,
    encode,
)
from vnic.protocol.qmp import stream as stream_module

JSON_LIKE = st.lists(
    st.one_of(
        st.sampled_from([*"{}[]:,\"'\\ \n\t%@\0", "true", "null", "\\u00e9", "\\ud83d", "1.5e3", "-", "0"]),
        st.text(max_size=4),
    ),
    max_size=60,
).map(lambda parts: "".join(parts).encode(errors="surrogatepass"))

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def plain(found: object) -> object:
    return f"error: {found.desc}" if isinstance(found, ParseError) else found


def parsed(chunks: list[bytes]) -> list[object]:
    stream = Stream()
    return [repr(plain(found)) for chunk in chunks for found in stream.feed(chunk)]


@given(st.binary(max_size=300) | JSON_LIKE, st.lists(st.integers(0, 300), max_size=5))
def test_result_does_not_depend_on_chunks(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
    assert parsed(chunks) == parsed([data])


@given(st.binary(max_size=200) | JSON_LIKE)
def test_ff_resynchronises_after_any_input(data: bytes) -> None:
    assert parsed([data, b'\xff\n{"a":1}\n'])[-1] == repr({"a": 1})


@given(VALUES)
def test_encoded_value_is_decoded_equal(value: object) -> None:
    line = encode(value)
    assert line.isascii()
    assert line.endswith(b"\r\n")
    assert json.loads(line) == value
    noncharacters = stream_module._NONCHARACTER.search(json.dumps(value, ensure_ascii=False))
    if not noncharacters:  # QEMU takes none in
        assert [plain(found) for found in Stream().feed(line)] == [value]


@given(JSON_LIKE | VALUES.map(lambda value: json.dumps({"a": value}).encode()))
@example(b'{"a":0e5}')
@example(b'{"a":NaN}')
@example(b'{"a":1,"a":2}')
@example(b'{"a":"\x7f"}')
def test_fast_path_agrees_with_tables(data: bytes) -> None:
    whole = stream_module._whole_message(data)
    if whole is not None:
        # A space in front keeps the stream from taking the short way itself.
        assert parsed([b" " + data]) == [repr(whole)]


@given(st.binary(max_size=100) | JSON_LIKE)
def test_single_value_equals_first_of_stream(data: bytes) -> None:
    try:
        value = decode(data.decode(errors="surrogateescape"))
    except ParseError:
        return
    assert parsed([data + b"\n"]) == [repr(value)]


@given(st.lists(st.binary(max_size=100) | JSON_LIKE, max_size=5))
def test_session_answers_any_input_with_json_lines(chunks: list[bytes]) -> None:
    session = QmpSession(Dispatcher(FakeMachine()), "fuzz")
    for chunk in chunks:
        for reply in session.feed(chunk):
            assert set(json.loads(reply)) <= {"return", "error", "id"}

"""QEMU's option strings, with the texts that QEMU 7.2 and 11.1 print for the same input."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.protocol.keyval import KeyvalError, Repeated, parse


def test_implied_first_key_and_nesting() -> None:
    tree, wants_help = parse("stream,id=net0,server=on,addr.type=unix,addr.path=/run/a", "type")
    assert tree == {
        "type": "stream",
        "id": "net0",
        "server": "on",
        "addr": {"type": "unix", "path": "/run/a"},
    }
    assert not wants_help


def test_double_comma_is_a_comma_and_an_equals_sign_needs_no_escape() -> None:
    tree, _ = parse("path=a,,b=c,,,d=", "type")
    assert tree == {"path": "a,b=c,", "d": ""}


def test_a_trailing_comma_and_the_empty_string_are_fine() -> None:
    assert parse("a=1,")[0] == {"a": "1"}
    assert parse("") == ({}, False)


def test_the_last_value_wins() -> None:
    assert parse("a=1,a=2")[0] == {"a": "2"}


def test_all_values_are_kept_for_options_that_are_lists() -> None:
    value = parse("a=1,a=2,b=x,a=3")[0]["a"]
    assert isinstance(value, Repeated)
    assert value == "3"
    assert value.all == ("1", "2", "3")


def test_lists_by_index() -> None:
    assert parse("fds.1=y,fds.0=x")[0] == {"fds": ["x", "y"]}
    assert parse("a.0.b=x")[0] == {"a": [{"b": "x"}]}


@pytest.mark.parametrize("word", ["help", "?"])
def test_help_is_recognised(word: str) -> None:
    assert parse(word, "type") == ({}, True)
    assert parse(f"stream,{word}", "type") == ({"type": "stream"}, True)


@pytest.mark.parametrize(
    ("text", "desc"),
    [
        ("stream,addr.type=unix,addr=x", "Parameters 'addr.*' used inconsistently"),
        ("stream,addr=x,addr.type=unix", "Parameters 'addr.*' used inconsistently"),
        ("stream,addr.type=unix,addr.path", "Expected '=' after parameter 'addr.path'"),
        ("stream,=3", "Invalid parameter ''"),
        ("stream,a..b=4", "Invalid parameter 'a..b'"),
        ("stream,1a=4", "Invalid parameter '1a'"),
        ("stream,a.b.1=4", "Parameter 'a.b.0' missing"),
        ("stream,a.0=x,a.b=y", "Parameters 'a.*' used inconsistently"),
        ("stream,,x=1,b", "Expected '=' after parameter 'b'"),
        ("stream,a.4000000000000=x", "Parameter 'a.0' missing"),
    ],
)
def test_error_texts_are_qemus(text: str, desc: str) -> None:
    with pytest.raises(KeyvalError) as refused:
        parse(text, "type")
    assert refused.value.desc == desc


def test_names_beyond_any_bound_are_refused() -> None:
    with pytest.raises(KeyvalError, match="too long"):
        parse("a" * 128 + "=1")
    with pytest.raises(KeyvalError, match="nested too deeply"):
        parse("a." * 5000 + "a=1")


def test_short_form_booleans_of_the_older_options() -> None:
    seen: list[tuple[str, str]] = []
    tree, _ = parse(
        "socket,id=c0,path=x,server,nowait",
        "backend",
        short_booleans=True,
        deprecated=lambda given, use: seen.append((given, use)),
    )
    assert tree == {"backend": "socket", "id": "c0", "path": "x", "server": "on", "wait": "off"}
    assert seen == [("server", "server=on"), ("nowait", "wait=off")]


@given(st.text(alphabet="abno.,=?0129-_{}é\n", max_size=60), st.booleans())
def test_any_text_parses_or_is_refused(text: str, short: bool) -> None:
    with contextlib.suppress(KeyvalError):
        tree, _ = parse(text, "type", short_booleans=short)
        assert all(tree)


KEYS = st.tuples(st.sampled_from("akz"), st.text(alphabet="akz09-", max_size=8)).map("".join)


@given(st.dictionaries(KEYS, st.text(max_size=20), max_size=6))
def test_escaped_values_come_back(values: dict[str, str]) -> None:
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in values.items())
    assert parse(text)[0] == values

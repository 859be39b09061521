"""The filters of `vnic link show`, and its order."""

from __future__ import annotations

import random
from typing import Any, get_args

import pytest

from vnic.cli.link_filter import SORTED_BY, WORDS, parse_filter, sort_links
from vnic.net.records import DataPathWord


def link(name: str, type_: str = "nic", /, **changes: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "type": type_,
        "model": "virtio-net" if type_ == "nic" else "echo",
        "link": "up",
        "holds": [],
        "datapath": "wire",
        "carrier-changes": 0,
        "last-change": {"time": 100.0},
        "guest": {"attached": False, "driver-ok": False, "seen": "unknown"},
    }
    return {**entry, **changes}


LINKS = [
    link("nic10", guest={"attached": True, "driver-ok": True, "seen": "up", "seen-latency-us": 40}),
    link("net10", "netdev", model="tap"),
    link("nic2", link="down", holds=[{"kind": "operator"}]) | {"carrier-changes": 9},
    link("net2", "netdev", link="down", datapath="none", holds=[{"kind": "disconnected"}]),
    link("down", impairments=[{"id": "x", "text": "delay 1ms"}]) | {"last-change": {"time": 300.0}},
]


@pytest.mark.parametrize("path", get_args(DataPathWord))
def test_all_that_moves_packets_is_a_filter(path: str) -> None:
    wanted = parse_filter(["path", path])
    assert wanted.meets(link("nic0", datapath=path))
    assert not wanted.meets(link("nic0", datapath="other"))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ["nic10", "net10", "nic2", "net2", "down"]),
        ("up", ["nic10", "net10", "down"]),
        ("down", ["nic2", "net2"]),
        ("type nic", ["nic10", "nic2", "down"]),
        ("type netdev down", ["net2"]),
        ("model tap", ["net10"]),
        ("held", ["nic2", "net2"]),
        ("held operator", ["nic2"]),
        ("held type nic", ["nic2"]),
        ("seen up", ["nic10"]),
        ("seen unknown", ["nic2", "down"]),
        ("attached", ["nic10"]),
        ("path none", ["net2"]),
        ("impaired", ["down"]),
        ("up down", []),
    ],
)
def test_a_link_is_shown_if_it_meets_all_filters(words: str, names: list[str]) -> None:
    wanted = parse_filter(words.split())
    assert wanted.name is None
    assert [each["name"] for each in LINKS if wanted.meets(each)] == names


def test_a_name_may_be_given_bare_or_behind_dev() -> None:
    assert parse_filter(["nic0"]).name == parse_filter(["dev", "nic0"]).name == "nic0"
    assert parse_filter(["dev", "down"]).name == "down"
    assert parse_filter(["dev", "down", "up"]).conditions == [("up", "")]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("typ nic", "'typ' and 'nic' are two names; one can be shown (did you mean 'type'?)"),
        ("nic0 nic1", "'nic0' and 'nic1' are two names; one can be shown"),
        ("type", "type: one of nic, netdev is expected"),
        ("type nick", "type: one of nic, netdev is expected, not 'nick' (did you mean 'nic'?)"),
        ("seen dwon", "seen: one of up, down, unknown is expected, not 'dwon' (did you mean 'down'?)"),
        ("model", "model: a name is expected"),
        ("dev", "dev: a NAME is expected"),
    ],
)
def test_words_that_make_no_filter_are_refused_with_what_was_meant(words: str, error: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the text is compared
        parse_filter(words.split())
    assert str(refused.value) == error


def test_names_sort_by_their_numbers() -> None:
    assert [each["name"] for each in sort_links(LINKS, "name")] == ["down", "net2", "net10", "nic2", "nic10"]


@pytest.mark.parametrize(("column", "first"), [("changes", "nic2"), ("last", "down"), ("latency", "nic10")])
def test_counts_and_times_sort_from_the_largest(column: str, first: str) -> None:
    assert sort_links(LINKS, column)[0]["name"] == first


def test_each_order_takes_all_links_and_none_is_lost() -> None:
    shuffled = random.Random(7).sample(LINKS, len(LINKS))
    for column in (None, *SORTED_BY):
        assert sorted(map(id, sort_links(shuffled, column))) == sorted(map(id, LINKS))


def test_the_words_of_filters_are_the_manuals() -> None:
    from pathlib import Path

    manual = (Path(__file__).parents[3] / "docs/terminal.md").read_text()
    for word in (*WORDS, *SORTED_BY):
        assert f"`{word}" in manual, word

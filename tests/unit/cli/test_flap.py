"""`vnic flap`: lengths of time and percentages, the arguments of flap-start, and the rows of --list."""

from __future__ import annotations

import argparse

import pytest

from vnic.cli import flap
from vnic.cli.times import milliseconds


@pytest.mark.parametrize(
    ("text", "ms"),
    [("200ms", 200), ("2s", 2000), ("5", 5000), ("1.5m", 90_000), ("24h", 86_400_000), ("0.5s", 500)],
)
def test_lengths_of_time(text: str, ms: int) -> None:
    assert milliseconds(text) == ms


@pytest.mark.parametrize("text", ["", "0", "-1s", "25h", "2 s", "soon", "1e3", "0.1ms", "ms", "1s2ms"])
def test_other_texts_are_no_lengths_of_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is no time from 1ms to 24h"):
        milliseconds(text)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    flap.add_parser(parser.add_subparsers())
    args = parser.parse_args(["flap", *words])
    flap.check(args)
    return args


def test_arguments_of_flap_start() -> None:
    words = ["nic0", "--down", "200ms", "--up", "2s", "--count", "3", "--jitter", "20%", "--seed", "7"]
    expected = {"name": "n", "down-ms": 200, "up-ms": 2000, "count": 3, "jitter": 20, "seed": 7}
    assert flap.flap_arguments("n", parse(*words)) == expected
    once = parse("nic0", "--down", "1s", "--count", "1")
    assert flap.flap_arguments("n", once) == {"name": "n", "down-ms": 1000, "count": 1}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nic0"],
        ["nic0", "--down", "1s"],
        ["nic0", "--up", "1s"],
        ["nic0", "--down", "1s", "--up", "1s", "--jitter", "101%"],
        ["nic0", "--list"],
        ["--list", "--stop", "flap-1"],
        ["--list", "--down", "1s"],
        ["--stop", "flap-1", "--seed", "1"],
    ],
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_row_of_list() -> None:
    entry = {
        "id": "flap-1",
        "name": "nic0",
        "by": "QMP client a[1]",
        "down-ms": 200,
        "up-ms": 2000,
        "jitter": 20,
        "seed": 7,
        "downs": 2,
        "remaining-ms": 579,
    }
    row = ("flap-1", "nic0", "200.0 ms", "2.0 s", "20%", "7", "2", "579.0 ms", "QMP client a[1]")
    assert flap.row(entry) == row
    assert flap.row({**entry, "count": 20})[6] == "2 of 20"

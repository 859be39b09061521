"""`vnic link impair` and `vnic link fault`: their words, usage errors, and the cells that they print."""

from __future__ import annotations

import argparse

import pytest

from vnic.cli import fault, impair, link


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    link.add_parser(parser.add_subparsers())
    args = parser.parse_args(["link", *words])
    args.check(args)
    return args


def test_impairments_are_passed_on_as_they_are() -> None:
    args = parse(
        *[
            "impair",
            "nic0",
            "--tx",
            "--delay",
            "10ms",
            "--loss",
            "0.5%",
            "--gap",
            "3",
            "--max-frame",
            "1400",
            "--clear",
        ]
    )
    assert impair.given(args) == {"delay": "10ms", "loss": "0.5%", "gap": 3, "max-frame": 1400}
    assert (args.link, args.direction, args.clear) == ("nic0", "tx", True)
    assert parse("impair", "--show").link is None
    assert parse("impair", "nic0", "--show").show


@pytest.mark.parametrize(
    "words",
    [
        "impair",
        "impair nic0",
        "impair nic0 --tx",
        "impair nic0 --tx --rx --loss 1%",
        "impair nic0 --show --loss 1%",
        "impair --loss 1%",
        "impair nic0 --gap x",
        "fault nic0",
        "fault nic0 bent",
        "fault nic0 one-way",
        "fault nic0 one-way all",
        "fault nic0 dead 5",
        "fault nic0 black-hole",
        "fault nic0 black-hole x",
        "fault nic0 slow-up",
        "fault nic0 slow-up 0",
        "fault nic0 dampened x=5",
        "fault nic0 dampened half-life",
        "fault nic0 dampened suppress=-1",
        "fault nic0 clear bent",
        "fault nic0 show more",
    ],
)
def test_usage_errors(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*words.split())
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("nic0 one-way tx", {"shape": "one-way", "direction": "tx"}),
        ("nic0 dead", {"shape": "dead"}),
        ("nic0 black-hole 1400", {"shape": "black-hole", "bytes": 1400}),
        ("nic0 slow-up 2s", {"shape": "slow-up", "delay-ms": 2000}),
        ("nic0 slow-up 5", {"shape": "slow-up", "delay-ms": 5000}),
        ("nic0 dampened", {"shape": "dampened"}),
        (
            "nic0 dampened half-life=1s,suppress=3000 reuse=10,max=1m",
            {"shape": "dampened", "half-life-ms": 1000, "suppress": 3000, "reuse": 10, "max-ms": 60000},
        ),
        ("nic0 clear", {"clear": True}),
        ("nic0 clear dead", {"clear": True, "shape": "dead"}),
        ("nic0 show", None),
        ("show", None),
    ],
)
def test_words_of_faults(words: str, arguments: dict[str, object] | None) -> None:
    args = parse("fault", *words.split())
    assert args.arguments == arguments
    assert args.target == (None if words == "show" else "nic0")
    assert args.name is None, "that is the instance"


def test_rows() -> None:
    counts = dict.fromkeys(
        ("passed", "lost", "duplicated", "corrupted", "reordered", "over-limit", "too-long"), 0
    )
    netem = {
        "id": "nic0-netem",
        "netdev": "net0",
        "text": "delay 10ms",
        "on": True,
        "directions": [{"direction": "tx", "waiting": 3, "counts": {**counts, "passed": 7, "lost": 2}}],
    }
    [row] = impair.rows(netem)
    assert dict(zip(impair.COLUMNS, row, strict=True))["IMPAIRMENT"] == "delay 10ms"
    assert row[:6] == ("nic0-netem", "net0", "tx", "3", "7", "2")
    assert impair.rows({**netem, "on": False, "fault": "dead"})[0][-1] == "off: dead: delay 10ms"
    slow = {
        "name": "nic0",
        "shape": "slow-up",
        "text": "comes up",
        "by": "me",
        "holds": True,
        "left-ms": 1500,
    }
    assert fault.row(slow) == ("nic0", "slow-up", "yes", "1.5 s", "-", "-", "comes up (by me)")

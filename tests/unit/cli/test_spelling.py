"""Misspelt verbs, words and options of the command line: the error says what was probably meant."""

from __future__ import annotations

import pytest

from vnic.cli.main import main
from vnic.cli.spelling import did_you_mean


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["lnik"], "did you mean 'link'?"),
        (["help", "whi"], "did you mean 'why'?"),
        (["link", "shwo"], "(did you mean 'show'?)"),
        (["link", "set", "nic0", "dwon"], "(did you mean 'down'?)"),
        (["link", "set", "nic0", "down", "--wiat=2"], "(did you mean '--wait'?)"),
        (["link", "show", "--sort", "nmae"], "(did you mean 'name'?)"),
        (["link", "show", "tpye", "nic"], "(did you mean 'type'?)"),
        (["link", "fault", "nic0", "dampend"], "(did you mean 'dampened'?)"),
        (["link", "fault", "nic0", "clear", "daed"], "(did you mean 'dead'?)"),
        (["netdev", "ad", "echo,id=a"], "(did you mean 'add'?)"),
        (["lab", "shwo"], "(did you mean 'show'?)"),
        (["bench", "lnik"], "(did you mean 'link'?)"),
        (["demo", "--guest", "qmeu"], "(did you mean 'qemu'?)"),
        (["run", "-netdv", "echo"], "(did you mean '-netdev'?)"),
        (["run", "--kep"], "(did you mean '-keep'?)"),
    ],
)
def test_a_usage_error_says_what_was_meant(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert meant in said


@pytest.mark.parametrize("words", [["netdev", "add", "strem,id=a"], ["device", "add", "virtio-nte"]])
def test_an_option_string_that_is_refused_says_what_was_meant(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert "(did you mean '" in capsys.readouterr().err


def test_nothing_is_said_where_nothing_is_near() -> None:
    assert did_you_mean("xyzzy", ["nic0", "net0"]) == ""
    assert did_you_mean("nci0", []) == ""


def test_a_word_that_is_no_text_has_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["link", "set", "nic0", "\udcff"]) == 2
    assert "Traceback" not in capsys.readouterr().err

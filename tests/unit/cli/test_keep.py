"""What the supervisor of `vnic run --keep` reads of the command line."""

from __future__ import annotations

import sys

import pytest

from vnic.cli.keep import _Log, scan


@pytest.mark.parametrize(
    ("words", "confined"),
    [
        ([], False),
        (["-sandbox", "off"], False),
        (["-sandbox", "on,spawn=deny"], True),
        (["--sandbox", "enable=on"], True),
        (["-run-with", "user=nobody"], True),
        (["-sandbox", "off", "--run-with", "user=1:1"], True),
    ],
)
def test_confined_control_has_no_other_program_started(words: list[str], confined: bool) -> None:
    """By `vnic upgrade --to`: it would be outside of the sandbox, and the supervisor's user."""
    assert scan(["run", "--keep", *words]).confined is confined


class Unread:
    """A stderr whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_supervisor_goes_on_when_nobody_reads_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Unread())
    _Log(None).say("process 7 was killed")

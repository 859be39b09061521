"""What the supervisor of `vnic run --keep` reads of the command line."""

from __future__ import annotations

import pytest

from vnic.cli.keep import scan


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

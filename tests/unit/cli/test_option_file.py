"""Options of a file in the command line of `vnic run`."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnic.cli.option_file import OptionFileError, expand


def test_the_words_of_a_file_take_its_place(tmp_path: Path) -> None:
    file = tmp_path / "lab.conf"
    file.write_text(
        "# the lab\n"
        "-netdev echo,id=net0   # plugs into nothing\n"
        "\n"
        """-device '{"driver": "virtio-net", "id": "nic0"}'\n"""
        "-S\n"
    )
    assert expand(["-name", "a", f"@{file}", "-pidfile", "p"]) == [
        *("-name", "a", "-netdev", "echo,id=net0"),
        *("-device", '{"driver": "virtio-net", "id": "nic0"}', "-S", "-pidfile", "p"),
    ]


def test_an_argument_that_begins_with_an_at_sign_is_no_file() -> None:
    assert expand(["-qmp", "unix:@name", "-D", "@log"]) == ["-qmp", "unix:@name", "-D", "@log"]


def test_a_file_may_follow_an_option_without_argument(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("-S")
    assert expand(["--keep", f"@{tmp_path}/f"]) == ["--keep", "-S"]


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file or directory"), ("'", "No closing quotation")]
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: str | None, why: str) -> None:
    path = tmp_path / "f"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionFileError, match=why):
        expand([f"@{path}"])


def test_a_file_names_no_further_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("@other")
    assert expand([f"@{tmp_path}/f"]) == ["@other"]

"""The man pages: each verb has one, groff takes all without a warning, and text of the manual stays what it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vnic.cli.main import VERBS
from vnic.reference.man import OF_VERB, QMP_SECTIONS, RUN_SECTIONS, WHOLE, main, pages
from vnic.reference.roff import convert, escape, sections

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages(DOCS)


def test_each_verb_has_a_page(made: dict[str, str]) -> None:
    assert set(made) == {"vnic.1", "vnic-run.1", "vnic-qmp.7", *(f"vnic-{verb}.1" for verb in VERBS)}


def test_what_pages_are_made_of_is_there() -> None:
    known = {**sections((DOCS / "manual.md").read_text()), **sections((DOCS / "terminal.md").read_text())}
    wanted = {*RUN_SECTIONS, *QMP_SECTIONS, *(each for headings in OF_VERB.values() for each in headings)}
    assert not wanted - set(known), "these headings of the manual are no more: mend reference/man.py"
    assert set(OF_VERB) <= set(VERBS)
    assert WHOLE["lab"] == "labs.md"


def test_options_and_the_manual_are_in_them(made: dict[str, str]) -> None:
    link = made["vnic-link.1"]
    assert "\\fB\\-\\-wait\\fR \\fISECONDS\\fR" in link
    assert '.SH "CHOOSING LINKS"' in link
    assert '.SH "THE SANDBOX"' in made["vnic-run.1"]


@pytest.mark.needs("groff")
def test_groff_takes_all_pages_without_a_warning(tmp_path: Path) -> None:
    main(DOCS, tmp_path)
    for path in sorted(tmp_path.glob("man*/*")):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Kutf8", "-Tutf8", "-rLL=200n", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        said = [line for line in done.stderr.splitlines() if "break" not in line and "adjust" not in line]
        assert not said, said
        assert "vnic" in done.stdout


def test_a_page_can_be_made_again_byte_for_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert '.TH VNIC\\-TOP 1 "1970\\-01\\-01"' in pages(DOCS)["vnic-top.1"].replace("-01", "\\-01")


@pytest.mark.parametrize(
    ("markdown", "roff"),
    [
        ("a `b-c` **d** *e*", [".PP", r"a \fBb\-c\fR \fBd\fR \fIe\fR"]),
        ("- a\n- b", [r".IP \(bu 2", "a", r".IP \(bu 2", "b"]),
        ("### A `b`", [r'.SS "A \fBb\fR"']),
        ("```\n.x \\y\n```", [".PP", ".RS 4", ".nf", r"\&.x \ey", ".fi", ".RE"]),
        ("| a | |\n|---|---|\n| `x\\|y` | z |", [".TP", r"\fBx|y\fR", "z"]),
        ("| a | b | c |\n|---|---|---|\n| 1 | 2 | |", [".TP", "1", r"\fIb\fR: 2"]),
        ("[text](manual.md#there)", [".PP", "text"]),
        ("one\n.two", [".PP", "one\n\\&.two"]),
    ],
)
def test_markdown_becomes_roff(markdown: str, roff: list[str]) -> None:
    assert convert(markdown) == roff


def test_text_cannot_be_a_macro() -> None:
    assert escape(".so /etc/passwd\n'x\\fB") == "\\&.so /etc/passwd\n\\(aqx\\efB"

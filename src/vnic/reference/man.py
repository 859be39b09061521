"""The man pages, from the parsers of the verbs and the manual: vnic(1), vnic-run(1), vnic-VERB(1), vnic-qmp(7).

`make man` runs it: `python -m vnic.reference.man DOCS FOLDER`. A wheel that is built afterwards has them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from vnic import __version__
from vnic.cli.help import RUN_HELP
from vnic.cli.main import VERBS, help_text
from vnic.reference.forms import forms
from vnic.reference.roff import bold, convert, escape, italic, preformatted, sections

RUN_SECTIONS: Final = (
    *("Words", "Running vnic", "Restarts and upgrades", "NICs: -device", "Plugging a VM in"),
    *("Back-ends: -netdev", "Cables", "Tunnels", "Data paths", "Filters: -object", "Followers: link-follow"),
    *("Sockets: -chardev", "Metrics", "Monitor policies", "The sandbox"),
    *("Where vnic differs from QEMU, on purpose", "What vnic does not have"),
)
"""Those of the manual that vnic-run(1) has."""
QMP_SECTIONS: Final = ("QMP", "HMP", "Monitor policies")
OF_VERB: Final[dict[str, tuple[str, ...]]] = {
    "link": ("Choosing links", "Impairments: netem", "Faults of a link"),
    "flap": ("Flaps",),
    "tunnel": ("Tunnels",),
    "log": ("The journal",),
    "why": ("The journal",),
    "top": ("vnic top",),
    "upgrade": ("Restarts and upgrades",),
    "completion": ("Completion",),
    "hmp": ("HMP",),
}
"""The sections of the manual, and of terminal.md, that the page of a verb has."""
WHOLE: Final = {"lab": "labs.md", "adopt": "adopt.md", "rehearse": "rehearse.md"}
"""Documents that are part of a verb's page."""
FILES: Final = "Exit codes, environment, files"


class Documents:
    """The texts of docs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sections = {
            **sections((folder / "manual.md").read_text()),
            **sections((folder / "terminal.md").read_text()),
        }

    def part(self, heading: str) -> Iterator[str]:
        yield f'.SH "{escape(heading).upper()}"'
        yield from convert(self.sections[heading])

    def whole(self, name: str) -> Iterator[str]:
        """All sections of a document, if there is one of that name."""
        path = self.folder / name
        for heading, text in sections(path.read_text()).items() if path.exists() else ():
            yield f'.SH "{escape(heading).upper()}"'
            yield from convert(text)


def pages(folder: Path) -> dict[str, str]:
    """All pages, by file name; `folder` is docs."""
    documents = Documents(folder)
    made = {"vnic.1": _vnic(documents), "vnic-run.1": _run(documents), "vnic-qmp.7": _qmp(documents)}
    for verb in VERBS:
        made[f"vnic-{verb}.1"] = _verb(verb, documents)
    return {name: "\n".join(_tidy(lines)) + "\n" for name, lines in made.items()}


def _tidy(lines: Iterator[str]) -> Iterator[str]:
    """Without paragraphs that a heading begins anyway."""
    before = ""
    for line in lines:
        if line != ".PP" or not before.startswith((".SH", ".SS")):
            yield line
        before = line


def _page(name: str, section: int, text: str) -> Iterator[str]:
    date = time.strftime("%Y-%m-%d", time.gmtime(_source_date()))
    yield f'.TH {escape(name).upper()} {section} "{date}" "vnic {__version__}" "vnic"'
    yield from (".SH NAME", f"{escape(name)} \\- {escape(text)}")


def _source_date() -> int:
    """SOURCE_DATE_EPOCH, so that a page can be made again byte for byte."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def _see_also(*names: str) -> Iterator[str]:
    yield ".SH SEE ALSO"
    yield ", ".join(f"{bold(name.partition('.')[0])}({name.partition('.')[2]})" for name in names)


def _vnic(documents: Documents) -> Iterator[str]:
    yield from _page("vnic", 1, "network cards for virtual machines whose cable you hold")
    yield ".SH SYNOPSIS"
    yield from (f"{bold('vnic run')} [{italic('OPTION')}]...", ".br", f"{bold('vnic')} {italic('VERB')} ...")
    yield ".SH DESCRIPTION"
    _, _, text = help_text().partition("\n\n")
    yield from preformatted(text)
    yield from documents.part("The verbs")
    yield from documents.part(FILES)
    yield from documents.part("Output for programs")
    yield from _see_also(
        "vnic-run.1", *(f"vnic-{verb}.1" for verb in VERBS), "vnic-qmp.7", "qemu-system-x86_64.1"
    )


def _run(documents: Documents) -> Iterator[str]:
    yield from _page("vnic-run", 1, "give virtual machines network cards")
    yield from (".SH SYNOPSIS", f"{bold('vnic run')} [{italic('OPTION')}]...")
    yield ".SH OPTIONS"
    yield from preformatted(RUN_HELP.partition("\n\n")[2])
    for heading in RUN_SECTIONS:
        yield from documents.part(heading)
    yield from documents.part(FILES)
    yield from _see_also("vnic.1", "vnic-link.1", "vnic-why.1", "vnic-qmp.7")


def _qmp(documents: Documents) -> Iterator[str]:
    yield from _page("vnic-qmp", 7, "the monitor of vnic")
    for heading in QMP_SECTIONS:
        yield from documents.part(heading)
    yield from _see_also("vnic.1", "vnic-run.1", "vnic-hmp.1")


def _verb(verb: str, documents: Documents) -> Iterator[str]:
    yield from _page(f"vnic-{verb}", 1, VERBS[verb][1])
    found = list(forms(verb))
    yield ".SH SYNOPSIS"
    # A verb whose usage was written by hand names all its words; the others' words have their own.
    for number, usage in enumerate(_usages(found)):
        yield from ([".br"] if number else [])
        yield bold(usage)
    yield from (".SH DESCRIPTION", escape(found[0][1].description or VERBS[verb][1]))
    for words, parser in found:
        yield from _options(words, parser, first=words == verb)
    for heading in OF_VERB.get(verb, ()):
        yield from documents.part(heading)
    if verb in WHOLE:
        yield from documents.whole(WHOLE[verb])
    yield from (".SH EXIT STATUS", "0: done; 1: refused, with a line on stderr; 2: wrong usage.")
    yield from _see_also("vnic.1", "vnic-run.1", "vnic-qmp.7")


def _usages(found: Sequence[tuple[str, argparse.ArgumentParser]]) -> list[str]:
    lines: dict[str, None] = {}
    for words, parser in found:
        if any(f"{line} ".startswith(f"vnic {words} ") for line in lines):
            continue  # the verb's own usage, written by hand, has it
        text = " ".join(parser.format_usage().removeprefix("usage: ").split())
        lines.update(dict.fromkeys(f"vnic {part.strip()}" for part in text.split("vnic ") if part.strip()))
    return list(lines)


def _options(words: str, parser: argparse.ArgumentParser, *, first: bool) -> Iterator[str]:
    """The arguments and options of one form, each with its help."""
    shown = [each for each in parser._actions if not isinstance(each, argparse._SubParsersAction)]
    yield ".SH OPTIONS" if first else f'.SS "vnic {escape(words)}"'
    if not first and parser.description:
        yield from (
            preformatted(parser.description) if "\n" in parser.description else [escape(parser.description)]
        )
    for action in shown:
        yield from (".TP", _tag(action))
        yield escape((action.help or "").replace("%%", "%")) or "\\ "
    if parser.epilog:
        yield from preformatted(parser.epilog)


def _tag(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if metavar is None:
        metavar = "|".join(map(str, action.choices)) if action.choices is not None else action.dest.upper()
    if not action.option_strings:
        return italic(metavar)
    names = ", ".join(map(bold, action.option_strings))
    return names if action.nargs == 0 else f"{names} {italic(metavar)}"


def main(docs: Path, folder: Path) -> None:
    """Write them below `folder`, as man1 and man7."""
    for name, text in pages(docs).items():
        path = folder / f"man{name[-1]}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

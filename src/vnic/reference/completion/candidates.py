"""What may come next in a command line, and what the shell has to do itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vnic.printable import one_line


class Candidate(NamedTuple):
    """A whole word, and what it means, in a few words."""

    word: str
    text: str = ""


@dataclass(slots=True)
class Candidates:
    """What may take the place of the word under the cursor; files are the shell's to find."""

    words: list[Candidate] = field(default_factory=list)
    files: bool = False
    open_end: bool = False
    """More of the same word follows: no space after it."""

    def beginning_with(self, prefix: str) -> list[Candidate]:
        """Those that fit, each once; a word that would not survive a shell, or a line, is left out."""
        found: dict[str, Candidate] = {}
        for each in self.words:
            if each.word.startswith(prefix) and each.word and each.word == one_line(each.word):
                found.setdefault(each.word, Candidate(each.word, one_line(each.text)))
        return list(found.values())


FILES = Candidates(files=True)
NONE = Candidates()


def of(words: Iterable[str], text: str = "") -> Candidates:
    return Candidates([Candidate(word, text) for word in words])


def prefixed(prefix: str, found: Sequence[Candidate]) -> list[Candidate]:
    """The same behind a part of the word that is there already."""
    return [Candidate(prefix + each.word, each.text) for each in found]

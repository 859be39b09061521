"""Markdown as man pages have it: the subset of the manual, to the macros of man(7).

markdown-it reads it, which comes with rich. Links become their texts; a table becomes a tagged list of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

_FONTS: Final = {"strong_open": r"\fB", "em_open": r"\fI", "strong_close": r"\fR", "em_close": r"\fR"}


def escape(text: str) -> str:
    """Text that roff prints as it is."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    return re.sub(r"^\.", r"\\&.", text, flags=re.M)


def bold(text: str) -> str:
    return rf"\fB{escape(text)}\fR"


def italic(text: str) -> str:
    return rf"\fI{escape(text)}\fR"


def preformatted(text: str) -> list[str]:
    """Lines that are not filled."""
    return [".PP", ".RS 4", ".nf", *(escape(line) for line in text.rstrip("\n").split("\n")), ".fi", ".RE"]


def sections(markdown: str) -> dict[str, str]:
    """The text of each `## ` section, with its parts, by its heading without its marks."""
    parts = re.split(r"^## (.+)$", markdown, flags=re.M)
    return dict(zip(map(_plain, parts[1::2]), parts[2::2], strict=True))


def _plain(heading: str) -> str:
    return heading.replace("`", "")


def convert(markdown: str) -> list[str]:
    """The lines of roff of a text; `### ` headings become subsections."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    return list(_blocks(tokens))


def _blocks(tokens: Sequence[Token]) -> Iterator[str]:
    rest = iter(tokens)
    items = 0
    for token in rest:
        if token.type == "heading_open":
            yield f'.SS "{_inline(next(rest))}"'
        elif token.type == "inline":
            yield _inline(token)
        elif token.type == "paragraph_open":
            if not token.hidden and not items:
                yield ".PP"
        elif token.type in ("fence", "code_block"):
            yield from preformatted(token.content)
        elif token.type == "list_item_open":
            items += 1
            yield ".IP \\(bu 2"
        elif token.type == "list_item_close":
            items -= 1
        elif token.type == "table_open":
            yield from _table(rest)


def _table(rest: Iterator[Token]) -> Iterator[str]:
    """Each row as a tag, its first cell, and the others behind it. Headings of more than two columns name the cells."""
    heads: list[str] = []
    row: list[str] = []
    for token in rest:
        if token.type == "table_close":
            return
        if token.type == "tr_open":
            row = []
        elif token.type == "inline":
            row.append(_inline(token))
        elif token.type == "tr_close" and not heads:
            heads = row
        elif token.type == "tr_close":
            yield ".TP"
            yield row[0] or "\\ "
            named = [
                f"\\fI{head}\\fR: {cell}" if head else cell
                for head, cell in zip(heads[1:], row[1:], strict=False)
                if cell
            ]
            cells = [cell for cell in row[1:] if cell] if len(heads) <= 2 else named
            yield "\n.br\n".join(cells) or "\\ "


def _inline(token: Token) -> str:
    """Text with fonts; a line may not begin as a macro does."""
    found = []
    for each in token.children or ():
        if each.type == "text":
            found.append(escape(each.content))
        elif each.type == "code_inline":
            found.append(bold(each.content))
        elif each.type in _FONTS:
            found.append(_FONTS[each.type])
        elif each.type == "softbreak":
            found.append("\n")
        elif each.type == "hardbreak":
            found.append("\n.br\n")
    lines = "".join(found).split("\n")
    return "\n".join(
        line if line == ".br" or not line.startswith(("'", ".")) else rf"\&{line}" for line in lines
    )

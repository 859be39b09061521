"""The forms of vnic's command line: each verb, and each word below it, with its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from vnic.cli.main import VERBS, verb_parser
from vnic.cli.parser import options, words_below


def forms(verb: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """`link`, `link show`, `link set` and so on, each with its parser."""
    _, verbs = verb_parser(verb)
    yield from _below(verb, verbs.choices[verb])


def _below(words: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield words, parser
    for word, each in words_below(parser).items():
        yield from _below(f"{words} {word}", each)


def json_forms() -> list[str]:
    """The forms that take --json themselves, of all verbs."""
    return [words for verb in VERBS for words, parser in forms(verb) if "--json" in options(parser)]

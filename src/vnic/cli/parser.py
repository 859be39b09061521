"""The parsers of all verbs: argparse's, with suggestions for misspelt words. `main` and `vnic completion` make one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import NoReturn

from vnic.cli.spelling import closest, did_you_mean

_CHOICE = re.compile(r"invalid choice: '?(?P<word>.*?)'? \(choose from (?P<known>.*)\)$", re.DOTALL)
_SURPLUS = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """A parser, or that of a verb or a word below it: `add_subparsers` makes those of the same class."""

    def error(self, message: str) -> NoReturn:
        """End with a usage error, and the word that was probably meant."""
        super().error(message + self._meant(message))

    def _meant(self, message: str) -> str:
        if (choice := _CHOICE.search(message)) is not None:
            return did_you_mean(choice["word"], re.findall(r"[^\s,']+", choice["known"]))
        if message.startswith(_SURPLUS):
            known = [option for parser in tree(self) for option in options(parser)]
            for word in message.removeprefix(_SURPLUS).split():
                near = closest(word.partition("=")[0], known) if word.startswith("-") else None
                if near is not None:
                    return f" (did you mean '{near}'?)"
        return ""


def options(parser: argparse.ArgumentParser) -> list[str]:
    """The long and short options of one parser."""
    return [option for action in parser._actions for option in action.option_strings]


def words_below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the words that may follow, as `show` and `set` of `vnic link`; none for most."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def tree(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser, and all below it."""
    yield parser
    for each in words_below(parser).values():
        yield from tree(each)

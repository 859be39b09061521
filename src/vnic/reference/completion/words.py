"""Finds the place of the cursor in a command line, by the verbs' own parsers, and what may stand there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from vnic.cli.main import BEFORE_VERB, VERBS, verb_parser
from vnic.cli.parser import words_below
from vnic.reference.completion.candidates import FILES, NONE, Candidate, Candidates, prefixed
from vnic.reference.completion.sources import Place, source_of

RUN: Final = "give virtual machines NICs whose cable you hold"
HELP: Final = "explain a verb"


def complete(words: Sequence[str]) -> Candidates:
    """What may take the place of the last of `words`, which come behind `vnic`."""
    *before, prefix = words or [""]
    before, name, qmp, waits = _options_before_verb(before)
    if waits is not None:
        return _instance(waits, prefix)
    if not before:
        options = [Candidate(option) for option in ("--help", "--version")] if prefix.startswith("-") else []
        return Candidates([*_verbs(), Candidate("help", HELP), *options])
    verb, *rest = before
    if verb == "help":
        return NONE if rest else Candidates(_verbs())
    if verb == "run":
        from vnic.reference.completion.option_strings import run_words  # late: it takes all back-ends along

        return run_words(rest, prefix)
    if verb not in VERBS:
        return NONE
    _, verbs = verb_parser(verb)
    return _Walk(verb, verbs.choices[verb], name, qmp).complete(rest, prefix)


def _verbs() -> list[Candidate]:
    return [Candidate("run", RUN), *(Candidate(verb, text) for verb, (_, text) in VERBS.items())]


def _options_before_verb(words: list[str]) -> tuple[list[str], str | None, str | None, str | None]:
    """The words from the verb on; the values of `-n` and `--qmp` before it; the one of these that still has none."""
    given: dict[str, str] = {}
    rest = list(words)
    while rest and (option := rest[0].partition("="))[0] in BEFORE_VERB:
        name = rest.pop(0).partition("=")[0]
        if BEFORE_VERB[name]:
            if not option[1] and not rest:
                return [], None, None, name
            given[name] = option[2] if option[1] else rest.pop(0)
    return rest, given.get("-n", given.get("--name")), given.get("--qmp"), None


def _instance(option: str, prefix: str) -> Candidates:
    source = source_of("", "", "PATH" if option == "--qmp" else "INSTANCE")
    assert source is not None
    return source(Place("", prefix))


class _Walk:
    """Goes along the words of one verb, as argparse would."""

    def __init__(self, form: str, parser: argparse.ArgumentParser, name: str | None, qmp: str | None) -> None:
        self._form = form
        self._parser = parser
        self._name, self._qmp = name, qmp
        self._given: list[str] = []
        self._used: set[str] = set()

    def complete(self, before: Sequence[str], prefix: str) -> Candidates:
        waiting: argparse.Action | None = None
        for at, word in enumerate(before):
            if waiting is not None:
                self._note(waiting, word)
                waiting = None
            elif word == "--":
                self._given += before[at + 1 :]
                return FILES if self._form == "guest" else self._positional(prefix)
            elif word.startswith("-"):
                waiting = self._option(word)
            else:
                self._word(word)
        if waiting is not None:
            return self._argument(waiting, prefix)
        option, equals, value = prefix.partition("=")
        if prefix.startswith("--") and equals:
            action = self._actions().get(option)
            if action is None or action.nargs == 0:
                return NONE
            found = self._argument(action, value)
            return Candidates(prefixed(f"{option}=", found.words), found.files, found.open_end)
        if prefix.startswith("-"):
            return Candidates(self._options())
        return self._positional(prefix)

    def _actions(self) -> dict[str, argparse.Action]:
        return {option: action for action in self._parser._actions for option in action.option_strings}

    def _option(self, word: str) -> argparse.Action | None:
        """Take an option; the one that the next word belongs to."""
        option, equals, value = word.partition("=")
        action = self._actions().get(option)
        if action is None:
            return None
        self._used.update(action.option_strings)
        if action.nargs == 0:
            return None
        if not equals:
            return action
        self._note(action, value)
        return None

    def _note(self, action: argparse.Action, value: str) -> None:
        if "--name" in action.option_strings:
            self._name = value
        elif "--qmp" in action.option_strings:
            self._qmp = value

    def _word(self, word: str) -> None:
        below = words_below(self._parser)
        if word in below and not self._given:
            self._form, self._parser, self._used = f"{self._form} {word}", below[word], set()
        else:
            self._given.append(word)

    def _options(self) -> list[Candidate]:
        """Those that are not given yet; the long one of each."""
        found = []
        for action in self._parser._actions:
            if action.option_strings and not self._used.intersection(action.option_strings):
                text = "" if action.help in (None, argparse.SUPPRESS) else str(action.help).replace("%%", "%")
                found += [Candidate(option, text) for option in action.option_strings]
        return found

    def _positional(self, prefix: str) -> Candidates:
        """What the next word without a minus may be; a word below the verb, as `show` of `vnic link`, is one."""
        left = len(self._given)
        for action in self._parser._actions:
            if action.option_strings:
                continue
            if isinstance(action, argparse._SubParsersAction):
                if left == 0:
                    texts = {each.dest: each.help or "" for each in action._choices_actions}
                    return Candidates([Candidate(word, texts.get(word, "")) for word in action.choices])
                return NONE
            if action.nargs in ("*", "+", argparse.REMAINDER) or left == 0:
                return self._argument(action, prefix)
            left -= 1
        return NONE

    def _argument(self, action: argparse.Action, prefix: str) -> Candidates:
        if action.choices is not None:
            return Candidates([Candidate(str(each)) for each in action.choices])
        metavar = action.metavar if isinstance(action.metavar, str) else None
        source = source_of(self._form, action.dest, metavar)
        if source is None:
            return NONE
        return source(Place(self._form, prefix, self._given, self._name, self._qmp))

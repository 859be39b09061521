"""`vnic completion bash|zsh|fish`: the script that gives a shell completion; `words`: what that script asks.

`main` calls it. What fails in `words` has no candidates: an error would come amidst what is being typed.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence

from vnic.cli.client import Refused
from vnic.reference.completion.candidates import NONE, Candidates
from vnic.reference.completion.shells import SCRIPTS
from vnic.reference.completion.words import complete

HOW = """\
  bash  eval "$(vnic completion bash)"                                     in ~/.bashrc
  zsh   eval "$(vnic completion zsh)"                                      in ~/.zshrc, behind compinit
  fish  vnic completion fish > ~/.config/fish/completions/vnic.fish        once
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "completion",
        help="give bash, zsh or fish completion of vnic's commands",
        description="Print the script that gives a shell completion: of verbs, options and their values, also of"
        " `vnic run`, and of the names of running vnics and their links.",
        epilog=HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(required=True, metavar="bash|zsh|fish")
    for shell, script in SCRIPTS.items():
        each = what.add_parser(
            shell, help=f"the script for {shell}", description=f"Print the script for {shell}."
        )
        each.set_defaults(run=_print, script=script)
    words = what.add_parser(
        "words",
        help="what may come next; the scripts ask this",
        usage="vnic completion words -- WORD...\n       vnic completion words --line LINE [--breaks CHARACTERS]",
        description="Print what may take the place of the last word of those behind `vnic`: a line of directives"
        " (files, nospace or -), then a candidate a line, and behind a tab what it means.",
    )
    words.add_argument(
        "--line", metavar="LINE", help="the command line up to the cursor, in a shell's quoting"
    )
    words.add_argument(
        "--breaks",
        metavar="CHARACTERS",
        default="",
        help="the shell replaces only what is behind the last of these",
    )
    words.set_defaults(run=_words, command=[])


def split_command(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What comes before the first `--`, and the words after it."""
    at = words.index("--") if "--" in words else len(words)
    return list(words[:at]), list(words[at + 1 :])


def _print(args: argparse.Namespace) -> int:
    sys.stdout.write(args.script)
    return 0


def _words(args: argparse.Namespace) -> int:
    words = args.command if args.line is None else split(args.line)[1:]
    prefix = words[-1] if words else ""
    try:
        found = complete(words)
    except (OSError, Refused):
        found = NONE
    # Bash keeps what is before = and : of the word, and wants only the rest.
    breaks = set(args.breaks) & set("=:")
    kept = max((prefix.rfind(each) + 1 for each in breaks), default=0)
    sys.stdout.write("\n".join([_directives(found), *lines(found, prefix, kept)]) + "\n")
    return 0


def _directives(found: Candidates) -> str:
    wanted = [word for word, is_so in (("files", found.files), ("nospace", found.open_end)) if is_so]
    return " ".join(wanted) or "-"


def lines(found: Candidates, prefix: str, kept: int) -> list[str]:
    return [
        f"{each.word[kept:]}\t{each.text}" if each.text else each.word[kept:]
        for each in found.beginning_with(prefix)
    ]


def split(line: str) -> list[str]:
    """The words of a command line that ends at the cursor; the last one may be empty, or still in quotes."""
    # Only what is behind the last ; | & or newline is this command.
    line = re.split(r"[;|&\n]\s*(?=\S*vnic\s)", line)[-1]
    for closing in ("", '"', "'"):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        at_a_new_word = not closing and (not line or (line[-1].isspace() and not line.endswith("\\ ")))
        return [*words, ""] if at_a_new_word else words
    return []

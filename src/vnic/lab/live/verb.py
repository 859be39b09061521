"""`vnic lab …`: labs from one file. `cli.main` calls it; each of its words has a function here.

What the words need is imported late.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vnic.cli.client import Refused
from vnic.cli.show import print_json
from vnic.lab.refusal import EXIT_REFUSED, told
from vnic.printable import lines

if TYPE_CHECKING:
    from vnic.lab.file.problems import Problem
    from vnic.lab.file.types import Lab
    from vnic.lab.live.place import Place, Record

USAGE = """\
vnic lab up [--name LAB] [-web [HOST:]PORT[,key=value]...] FILE
       vnic lab check FILE
       vnic lab down|show [LAB]
       vnic lab exec [--lab LAB] NODE COMMAND...
       vnic lab console [--lab LAB] NODE
       vnic lab graph [--mermaid] [-o OUT] FILE
       vnic lab schema"""

Words = Any
"""argparse's special action, which has no public name."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "lab",
        help="virtual machines and the cables between them, from one file",
        usage=USAGE,
        description="Labs from one YAML file, in containerlab's words: nodes that are virtual machines, and links that"
        " are cables between them. LAB is the name of a running lab, or its file; it may be left out if only one runs.",
    )
    words = parser.add_subparsers(required=True, prog="vnic lab", metavar="WORD")
    up = _word(
        words, "up", run_up, "start a lab, or apply its changed file to the running one; all or nothing"
    )
    up.add_argument("--name", metavar="LAB", help="the lab's name, in place of the file's")
    up.add_argument(
        "-web",
        "--web",
        metavar="[HOST:]PORT",
        action="append",
        default=[],
        help="serve the page of the lab, as `vnic run -web` does; its URL is printed",
    )
    up.add_argument("file", metavar="FILE")
    down = _word(words, "down", run_down, "end a lab: its guests, its vnic, its sockets")
    show = _word(words, "show", run_show, "show the nodes and the links of a running lab")
    check = _word(words, "check", run_check, "check a file; each error has its line and its key")
    check.add_argument("file", metavar="FILE")
    for each in (down, show):
        each.add_argument("lab", metavar="LAB", nargs="?", help="the name of a running lab, or its file")
    for each in (show, check):
        each.add_argument("-j", "--json", action="store_true", help="print it as JSON")
    graph = _word(words, "graph", run_graph, "draw the lab of a file, as SVG or as Mermaid's text")
    graph.add_argument("--mermaid", action="store_true", help="Mermaid's text in place of SVG")
    graph.add_argument("-o", "--output", metavar="OUT", help="the file to write; default: stdout")
    graph.add_argument("file", metavar="FILE")
    execute = _word(
        words, "exec", run_exec, "run a shell command in a node's guest; the exit code is its own"
    )
    console = _word(words, "console", run_console, "a node's console in this terminal; Ctrl-] leaves it")
    for each in (execute, console):
        each.add_argument("--lab", metavar="LAB", help="the name of a running lab, or its file")
        each.add_argument("node", metavar="NODE")
    execute.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER)
    _word(words, "schema", run_schema, "print the JSON Schema of lab files, for editors")


def _word(
    words: Words, name: str, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = words.add_parser(
        name, help=text, description=f"{text[:1].upper()}{text[1:]}."
    )
    parser.set_defaults(run=run, function=function)
    return parser


def run(args: argparse.Namespace) -> int:
    """Whatever the word."""
    return told(lambda: int(args.function(args)))


# -- files ------------------------------------------------------------------------------------------------------------


def _load(path: str) -> tuple[Lab, list[Problem]]:
    from vnic.lab.file.load import load_file

    return load_file(path)


def _note(path: str, notes: list[Problem]) -> None:
    for note in notes:
        print(lines(f"{path}:{note}"), file=sys.stderr)


def run_check(args: argparse.Namespace) -> int:
    from vnic.lab.file.plan import make_plan
    from vnic.lab.file.problems import BadLab
    from vnic.lab.live.up import missing

    try:
        lab, notes = _load(args.file)
    except BadLab as bad:
        if not args.json:
            raise
        print_json({"errors": msgspec.to_builtins(bad.problems), "notes": []})
        return EXIT_REFUSED
    if args.json:
        print_json({"errors": [], "notes": msgspec.to_builtins(notes)})
    else:
        _note(args.file, notes)
        for text in missing(make_plan(lab, "")):
            print(lines(f"{args.file}: {text}"), file=sys.stderr)
        print(f"{args.file}: lab {lab.name}, nodes: {len(lab.nodes)}, links: {len(lab.links)}")
    return 0


def run_graph(args: argparse.Namespace) -> int:
    from vnic.lab.file import graph

    lab, notes = _load(args.file)
    _note(args.file, notes)
    text = graph.mermaid(lab) if args.mermaid else graph.svg(lab)
    if args.output is None:
        sys.stdout.write(text)
    else:
        Path(args.output).write_text(text)
    return 0


def run_schema(_args: argparse.Namespace) -> int:
    from vnic.lab.file.schema import schema_text

    sys.stdout.write(schema_text())
    return 0


# -- running labs -----------------------------------------------------------------------------------------------------


def run_up(args: argparse.Namespace) -> int:
    from vnic.cli.web_option import passed_on
    from vnic.lab.live.up import bring_up

    web = passed_on(args.web)
    lab, notes = _load(args.file)
    _note(args.file, notes)
    if args.name is not None:
        lab = _renamed(lab, args.name)
    bring_up(lab, os.path.abspath(args.file), _say, web)
    print(f"lab {lab.name} is up; `vnic lab show {lab.name}` shows it")
    return 0


def _renamed(lab: Lab, name: str) -> Lab:
    """The lab under another name, by the rule of a file's."""
    from vnic.lab.file.types import FileKeys

    try:
        msgspec.convert({"name": name}, FileKeys)
    except msgspec.ValidationError as error:
        raise Refused(f"--name {name}: {error}") from None
    return msgspec.structs.replace(lab, name=name)


def _say(text: str) -> None:
    print(lines(text), flush=True)


def run_down(args: argparse.Namespace) -> int:
    from vnic.lab.live.down import take_down
    from vnic.lab.live.place import find

    place = find(args.lab)
    take_down(place)
    print(f"lab {place.name} is down")
    return 0


def run_show(args: argparse.Namespace) -> int:
    from vnic.lab.live.show import look, print_lab

    place, record = _running(args.lab)
    shown = look(place, record)
    if args.json:
        print_json(msgspec.to_builtins(shown))
    else:
        print_lab(shown)
    return 0


def run_exec(args: argparse.Namespace) -> int:
    from vnic.lab.live import wire

    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not words:
        raise Refused("a command is expected: vnic lab exec NODE COMMAND...")
    place, _ = _node(args)
    # One word is a script, as with ssh; several are a program and its arguments.
    command = words[0] if len(words) == 1 else shlex.join(words)
    return wire.run(place.control(args.node), command, _write)


def _write(output: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def run_console(args: argparse.Namespace) -> int:
    from vnic.lab.live.console import attach

    place, _ = _node(args)
    attach(place.control(args.node))
    return 0


def _running(which: str | None) -> tuple[Place, Record]:
    from vnic.lab.live.place import find

    place = find(which)
    record = place.read()
    if record is None:
        raise Refused(
            f"lab '{place.name}' is being started, or that was broken off: `vnic lab down {place.name}`"
        )
    return place, record


def _node(args: argparse.Namespace) -> tuple[Place, Record]:
    """The lab of `--lab`, which has a guest `args.node`."""
    from vnic.lab.file.problems import meant
    from vnic.lab.file.types import GUESTS

    place, record = _running(args.lab)
    node = record.lab.nodes.get(args.node)
    if node is None:
        raise Refused(f"lab '{place.name}' has no node '{args.node}'{meant(args.node, record.lab.nodes)}")
    if node.kind not in GUESTS:
        raise Refused(f"node '{args.node}' is of kind {node.kind}: vnic runs no guest for it")
    return place, record

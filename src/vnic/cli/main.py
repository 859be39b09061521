"""`vnic …`: finds the verb, imports only its module, and turns its errors into an exit code and one line.

Exit codes: 0 done, 1 refused, 2 wrong usage; 130 and 141 after Ctrl-C and a closed pipe, as shells have them.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from vnic import __version__
from vnic.keeper import OPTIONS
from vnic.printable import lines

if TYPE_CHECKING:
    import argparse

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

VERBS = {
    "link": ("vnic.cli.link", "show all links, or put one up or down"),
    "flap": ("vnic.cli.flap", "have a link go down and up by a schedule"),
    "tunnel": ("vnic.cli.tunnel", "show the tunnels and their far ends"),
    "why": ("vnic.cli.why", "say why a link is up or down"),
    "log": ("vnic.cli.log", "show what happened to the links, also before the last start"),
    "ps": ("vnic.cli.ps", "show the running vnics and how they fare"),
    "stop": ("vnic.cli.stop", "end a running vnic in order"),
    "upgrade": ("vnic.cli.upgrade", "have another version go on in place of a running vnic"),
    "top": ("vnic.cli.top", "show what passes on all links, live, and their last hour"),
    "watch": ("vnic.cli.watch", "print events as they come"),
    "netdev": ("vnic.cli.netdev", "add or delete a back-end"),
    "device": ("vnic.cli.device", "add or delete a NIC"),
    "adopt": ("vnic.cli.adopt", "find the VMs of this host, and make them part of a running vnic"),
    "hmp": ("vnic.cli.hmp", "run a command of QEMU's human monitor"),
    "mcp": ("vnic.mcp.verb", "let an agent ask about links, over the Model Context Protocol"),
    "lab": ("vnic.lab.live.verb", "start and end labs: VMs and cables from one file"),
    "rehearse": ("vnic.lab.rehearse.verb", "pull a lab's link, and measure how long its guests are cut off"),
    "guest": ("vnic.lab.guest.verb", "boot a small Linux guest on NIC sockets, with a shell"),
    "demo": ("vnic.lab.demo.verb", "boot a small Linux guest and pull its cable in every way"),
    "completion": (
        "vnic.reference.completion.verb",
        "give bash, zsh or fish completion of vnic's commands",
    ),
    "doctor": ("vnic.lab.doctor", "say what this machine has and lacks for vnic"),
    "bench": ("vnic.lab.bench", "measure how fast links change and packets move"),
}
"""Beside `run`: the module of each verb, with `add_parser(verbs)`, and its line of help."""

HELP = f"""\
usage: vnic run [OPTION]...      give virtual machines NICs whose cable you hold
       vnic VERB ...             talk to a running vnic

vnic is QEMU's network layer as a program of its own: VMs plug into it over vhost-user or vfio-user,
it speaks QEMU's monitor, knows why a link is down, and whether the guest saw it.

Start one:
  run        takes QEMU's own options; `vnic run -h` explains each

Ask or tell a running one:
{{verbs}}

See for yourself:
{{tools}}

`vnic help VERB` explains a verb. With several vnics running, choose one with -n INSTANCE or --qmp PATH.

First steps:
  vnic demo
  vnic run -name lab -netdev echo,id=net0 \\
       -device virtio-net,id=nic0,netdev=net0,attach.type=vhost-user,attach.path=nic0.sock
  vnic guest nic0.sock                    (in another terminal: Linux, with a shell)
  vnic link                               (in a third)
  vnic link set nic0 down --wait 2
  vnic why nic0

vnic {__version__}; -V, --version prints this. Exit codes: 0 done, 1 refused, 2 wrong usage.
"""

_TOOLS = ("demo", "lab", "rehearse", "guest", "doctor", "bench", "completion")


def help_text() -> str:
    """What `vnic --help` prints."""
    verbs = [f"  {name:10} {text}" for name, (_, text) in VERBS.items() if name not in _TOOLS]
    tools = [f"  {name:10} {VERBS[name][1]}" for name in _TOOLS]
    return HELP.format(verbs="\n".join(verbs), tools="\n".join(tools))


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code; never shows a traceback for what a user can cause."""
    words = list(sys.argv[1:] if argv is None else argv)
    _fill_standard_files()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 gets `?` for what it cannot show
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at its end; send that to /dev/null (docs of signal.SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except OSError as error:  # no descriptors, no disk: the machine's limits, not ours
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"vnic: {lines(text)}", file=sys.stderr)
        return EXIT_REFUSED
    return code


def _fill_standard_files() -> None:
    """Open /dev/null in place of a standard file that is closed (`>&-`): else a socket of ours would get its number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


BEFORE_VERB = {"-j": 0, "--json": 0, "-n": 1, "--name": 1, "--qmp": 1}
"""Options of the verbs that may also come before the verb, as with ip(8), and how many words follow each."""


def _verb_first(words: list[str]) -> list[str]:
    """`--json link set …` as `link set … --json`; the options of `run` have their place."""
    at = 0
    while at < len(words) and (option := words[at].partition("="))[0] in BEFORE_VERB:
        at += 1 + (0 if option[1] else BEFORE_VERB[option[0]])
    before, rest = words[:at], words[at:]
    if not rest or rest[0] == "run":
        return words
    end = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:end], *before, *rest[end:]]


def _dispatch(words: list[str]) -> int:
    words = _verb_first(words)
    if words[:1] == ["help"] and len(words) > 1:
        words = [words[1], "-h"]  # as git has it
    verb = words[0] if words else ""
    if verb == "run":
        if not OPTIONS.isdisjoint(words):
            from vnic.cli.keep import run_kept

            return run_kept(words)
        from vnic.cli.run import run

        return run(words[1:])
    if verb in ("-h", "--help", "-help", "help"):
        print(help_text(), end="")
        return 0
    if verb in ("-V", "--version", "-version"):
        print(f"vnic {__version__}")
        return 0
    if verb not in VERBS:
        if not verb:
            print(help_text(), end="", file=sys.stderr)
        else:
            from vnic.cli.spelling import closest

            known = ["run", *VERBS]
            near = closest(verb, known)
            meant = f"did you mean '{near}'?" if near else f"there are {', '.join(known)}."
            print(f"vnic: '{verb}' is no verb of vnic; {meant} Try vnic --help.", file=sys.stderr)
        return EXIT_USAGE
    return _run_verb(verb, words)


def verb_parser(
    verb: str,
) -> tuple[argparse.ArgumentParser, argparse._SubParsersAction[argparse.ArgumentParser]]:
    """A parser of command lines that begin with `verb`, and what holds the verb's own parser."""
    from vnic.cli.parser import Parser

    parser: argparse.ArgumentParser = Parser(prog="vnic", allow_abbrev=False)
    verbs = parser.add_subparsers(required=True)
    importlib.import_module(VERBS[verb][0]).add_parser(verbs)
    return parser, verbs


def _run_verb(verb: str, words: list[str]) -> int:
    module = importlib.import_module(VERBS[verb][0])
    parser, verbs = verb_parser(verb)
    for_the_guest: dict[str, object] = {}
    if hasattr(module, "split_command"):  # argparse would give what follows `--` to the positionals before it
        words, for_the_guest["command"] = module.split_command(words)
    try:
        args, surplus = parser.parse_known_args(words)
        vars(args).update(for_the_guest)
        if surplus:  # said by the verb's parser, which knows the usage
            verbs.choices[words[0]].error(f"unrecognized arguments: {' '.join(surplus)}")
        if hasattr(args, "check"):  # what argparse cannot say: options that need or exclude each other
            args.check(args)
    except SystemExit as end:  # argparse has printed its help (0) or what is wrong (2)
        return int(end.code or 0)
    return _finish(module, args)


def _finish(module: ModuleType, args: argparse.Namespace) -> int:
    """Run what the verb set as `run`, which may be a coroutine function; Refused becomes a line and exit code 1."""
    import inspect

    run = getattr(args, "run", None) or module.run
    if not inspect.iscoroutinefunction(run):
        return int(run(args) or 0)
    import asyncio

    from vnic.cli.client import Refused

    try:
        return int(asyncio.run(run(args)))
    except Refused as refused:
        print(f"vnic: {lines(str(refused))}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return int(module.on_interrupt()) if hasattr(module, "on_interrupt") else EXIT_INTERRUPTED

"""`vnic hmp "…"`: one command of QEMU's human monitor, through QMP's human-monitor-command.

Its text goes to stdout as HMP prints it; HMP has no exit codes, so the forms of its refusals give 1.
"""

from __future__ import annotations

import argparse
import re
import sys

from vnic.cli.client import Session, add_instance_options, session
from vnic.cli.show import print_json
from vnic.cli.spelling import closest
from vnic.printable import lines

_REFUSAL = re.compile(r"^(Error: (?!index=)|unknown command: '|Try \"help )", re.MULTILINE)
"""An error, no such command, or wrong arguments (monitor/hmp.c); not `info network` of a NIC called Error."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "hmp",
        help="run a command of QEMU's human monitor",
        description="Run one command of QEMU's human monitor, as `vnic hmp info network`; `vnic hmp help` lists them.",
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the command and its arguments")
    parser.add_argument("-j", "--json", action="store_true", help="print the answer as one JSON string")
    add_instance_options(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    async with session(args) as qmp:
        text: str = await qmp.execute("human-monitor-command", command_line=" ".join(args.command))
        meant = await _meant(qmp, text)
    refused = _REFUSAL.search(text) is not None
    if args.json:
        print_json(text)
    else:
        (sys.stderr if refused else sys.stdout).write(lines(text.replace("\r\n", "\n")))
        if meant:
            print(f"vnic: {meant}", file=sys.stderr)
    return 1 if refused else 0


async def _meant(qmp: Session, text: str) -> str:
    """The command that was meant, where HMP does not know the one that was given."""
    unknown = re.match(r"unknown command: '([^']*)'", text)
    if unknown is None:
        return ""
    told: str = await qmp.execute("human-monitor-command", command_line="help")
    known = {line.split()[0].partition("|")[0] for line in told.splitlines() if line.strip()}
    near = closest(unknown[1], known)
    return "" if near is None else f"did you mean '{near}'?"

"""`vnic upgrade`: another version of vnic goes on with all guests of a running one.

`main` calls `run` here. QMP's vnic-upgrade has the running one leave; its keeper starts the other, and the one before
again where that does not come up.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

from vnic.cli.client import Entry, Refused, add_instance_options, find_socket, session
from vnic.cli.show import print_json

WAIT_S = 40.0
"""The keeper gives the other version 10 s, and the one before as long as any start."""
LOOK_AGAIN_S = 0.05


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "upgrade",
        help="have another version go on in place of a running vnic",
        description="Have another version of vnic go on in place of the running one, which has to be started with"
        " --keep or as a systemd service. No guest sees its link change. If the other version does not come up within"
        " 10 s, the one before goes on, and the exit code is 1.",
    )
    parser.add_argument("instance", nargs="?", metavar="NAME", help="the running vnic of that -name")
    parser.add_argument(
        "--to", metavar="PROGRAM", help="the other vnic (default: the one that is installed in its place now)"
    )
    parser.add_argument("-j", "--json", action="store_true", help="print query-vnic of the new process")
    add_instance_options(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    # The path is looked up once: by name, another vnic could be found while this one is away.
    args.qmp = str(await asyncio.to_thread(find_socket, args.instance or args.name, args.qmp))
    args.name = None
    program = None if args.to is None else await asyncio.to_thread(os.path.abspath, args.to)
    began = time.monotonic()
    async with session(args) as qmp:
        before = await qmp.execute("query-vnic")
        await qmp.execute("vnic-upgrade", program=program)
    after = await _next_one(args, before["pid"])
    took_ms = (time.monotonic() - began) * 1000
    result = after.get("keeper", {}).get("upgrade", "")
    if result.startswith("failed"):
        why = result.removeprefix("failed ")
        raise Refused(f"{why}; vnic {after['version']} goes on as process {after['pid']}")
    if args.json:
        print_json(after)
    else:
        print(
            f"vnic {before['version']}, process {before['pid']} → vnic {after['version']}, process {after['pid']},"
            f" after {took_ms:.0f} ms"
        )
    return 0


async def _next_one(args: argparse.Namespace, before: int) -> Entry:
    """query-vnic of the process that comes after that of pid `before`."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            async with session(args) as qmp:
                found: Entry = await qmp.execute("query-vnic")
                if found["pid"] != before:
                    return found
        except Refused:
            pass  # nobody listens yet
        await asyncio.sleep(LOOK_AGAIN_S)
    raise Refused(f"{args.qmp}: nobody has answered there for {WAIT_S:g} s")

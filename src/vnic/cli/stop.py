"""`vnic stop`: end a running vnic in order, and wait until it has ended.

`main` calls `run` here. With `vnic run --keep` the supervisor ends with it.
"""

from __future__ import annotations

import argparse
import asyncio

from vnic.cli.client import Refused, add_instance_options, session

WAIT_S = 10.0
"""The end takes 3 s at most where guests do not answer."""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "stop",
        help="end a running vnic in order",
        description="End a running vnic: back-ends first, so that guests see their links go. Returns when it has"
        " ended.",
    )
    parser.add_argument("instance", nargs="?", metavar="NAME", help="the running vnic of that -name")
    add_instance_options(parser)
    parser.set_defaults(run=run)


async def run(args: argparse.Namespace) -> int:
    args.name = args.instance or args.name
    async with session(args) as qmp:
        await qmp.execute("quit")
        try:
            async with asyncio.timeout(WAIT_S):
                while await qmp.next_event() is not None:
                    pass
        except TimeoutError:
            raise Refused(f"it has not ended within {WAIT_S:g} s") from None
    return 0

"""What `vnic netdev` and `vnic device` share: adding from an option string, deleting by id.

An option string becomes JSON by the Struct of what it describes; only what was given is sent.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import msgspec

from vnic.cli.client import (
    Entry,
    Refused,
    Session,
    add_instance_options,
    session,
)
from vnic.cli.options import parse_option_string
from vnic.cli.run_options import HelpTopic
from vnic.cli.show import print_json
from vnic.net.errors import NetError
from vnic.protocol import keyval
from vnic.protocol.qmp import ParseError, decode

DELETE_TIMEOUT_S = 10.0


def add_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    verb: str,
    thing: str,
    synopsis: str,
    implied: str,
    epilog: str,
) -> None:
    """Enter `vnic VERB add|del`."""
    parser = verbs.add_parser(verb, help=f"add or delete {thing}", description=f"Add or delete {thing}.")
    what = parser.add_subparsers(required=True, metavar="add|del")
    add = what.add_parser("add", help=f"add {thing}", epilog=epilog)
    add.add_argument("options", metavar=synopsis, help="an option string, or a JSON object")
    add.set_defaults(run=run_add, command=f"{verb}_add", implied=implied)
    delete = what.add_parser("del", help=f"delete {thing}")
    delete.add_argument("id", metavar="ID")
    delete.set_defaults(run=run_del, command=f"{verb}_del")
    for each in (add, delete):
        each.add_argument("-j", "--json", action="store_true", help="print QMP's answer as JSON")
        add_instance_options(each)


async def run_add(args: argparse.Namespace) -> int:
    told = _help(args.options, args.implied)
    if told is not None:
        print(told, end="")
        return 0
    arguments = to_json(args.options, args.implied)
    async with session(args) as qmp:
        _answer(args, await qmp.execute_with(args.command, arguments))
    return 0


async def run_del(args: argparse.Namespace) -> int:
    async with session(args) as qmp:
        answer = await qmp.execute(args.command, id=args.id)
        if args.command == "device_del":
            await _deleted(qmp, args.id)
        _answer(args, answer)
    return 0


async def _deleted(qmp: Session, device_id: str) -> None:
    """Wait for DEVICE_DELETED of that device, which may be named by its QOM path too."""
    try:
        async with asyncio.timeout(DELETE_TIMEOUT_S):
            while (event := await qmp.next_event()) is not None:
                data = event.get("data", {})
                if event["event"] == "DEVICE_DELETED" and device_id in (data.get("device"), data.get("path")):
                    return
    except TimeoutError:
        raise Refused(f"{device_id} was not gone after {DELETE_TIMEOUT_S:g} s") from None
    raise Refused("vnic ended")


def _answer(args: argparse.Namespace, answer: object) -> None:
    if args.json:
        print_json(answer)


def _help(text: str, implied: str) -> str | None:
    """The text for `help` or `TYPE,help`, as `vnic run` prints it; None for another string. Raises Refused."""
    if text.startswith("{"):
        return None
    try:
        tree, wants_help = parse_option_string(text, implied)
        if not wants_help:
            return None
        from vnic.cli.help import help_text

        named = tree.get(implied)
        option = "netdev" if implied == "type" else "device"
        return help_text(HelpTopic(option, named if isinstance(named, str) else None))
    except NetError as error:
        raise Refused(error.desc) from None


def to_json(text: str, implied: str) -> Entry:
    """The arguments that an option string (or JSON) stands for. Raises Refused."""
    try:
        if text.startswith("{"):
            return cast(Entry, decode(text))
        tree, _ = parse_option_string(text, implied)
        return _typed(tree, implied)
    except NetError as error:
        raise Refused(error.desc) from None
    except ParseError as error:
        raise Refused(error.desc) from None


def _typed(tree: keyval.Tree, implied: str) -> Entry:
    from vnic.cli.suggest import suggestion
    from vnic.monitor.schema import convert_to_shape, device_options, netdev_options

    if implied == "type":
        from vnic.backend import netdev_structs

        shape = netdev_options(netdev_structs())
    else:
        from vnic.machine.nics import NOT_BUILT, device_structs

        shape = device_options(device_structs(), NOT_BUILT)
    try:
        struct = cast(msgspec.Struct, convert_to_shape(shape, tree, strings=True))
    except NetError as refused:
        refused.desc += suggestion(refused.desc, shape, tree)
        raise
    given = _only_given(tree, msgspec.to_builtins(struct))
    return {**given, implied: tree[implied]}


def _only_given(tree: keyval.Tree, typed: Entry) -> Entry:
    """The part of `typed` that the tree has: the running vnic fills the defaults in."""
    given: Entry = {}
    for key, value in tree.items():
        inner = typed.get(key)
        given[key] = (
            _only_given(value, inner) if isinstance(value, dict) and isinstance(inner, dict) else inner
        )
    return given

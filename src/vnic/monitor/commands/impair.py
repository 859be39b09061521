"""Commands about what is wrong with links, all vnic's own: link-impair, link-fault, and their queries."""

from __future__ import annotations

import asyncio

import msgspec

from vnic.monitor.commands.table import Caller, command
from vnic.net.errors import NetError
from vnic.net.fault_info import FaultInfo, FaultShape, FaultWords
from vnic.net.filters import Direction
from vnic.net.netem.info import NetemInfo
from vnic.net.netem.words import NetemWords


class LinkImpair(NetemWords, frozen=True, kw_only=True):
    """What is not given stays as it is, or ends with `clear`."""

    name: str
    direction: Direction = Direction.ALL
    clear: bool = False


@command("link-impair")
def link_impair(caller: Caller, args: LinkImpair) -> None:
    """Change what is done to the frames of a link, or clear it."""
    caller.machine.link_impair(args.name, args.direction, args, caller.who, clear=args.clear)


class OfLink(msgspec.Struct):
    name: str | None = None


@command("query-impairments", returns=list[NetemInfo])
def query_impairments(caller: Caller, args: OfLink) -> list[NetemInfo] | asyncio.Future[list[NetemInfo]]:
    """The impairments of a link, or of all, with what became of the frames."""
    return caller.machine.impairments(args.name)


class LinkFault(FaultWords, frozen=True, kw_only=True):
    """The shape decides which further arguments there are."""

    name: str
    shape: FaultShape | None = None
    """Not needed with `clear`, which then ends all."""
    clear: bool = False


@command("link-fault")
def link_fault(caller: Caller, args: LinkFault) -> None:
    """Have something be wrong with a link, or end that."""
    if args.clear:
        caller.machine.clear_fault(args.name, args.shape, caller.who)
    elif args.shape is None:
        raise NetError("Parameter 'shape' is missing")
    else:
        caller.machine.link_fault(args.name, args.shape, args, caller.who)


@command("query-faults")
def query_faults(caller: Caller, args: OfLink) -> list[FaultInfo]:
    """What is wrong with a link, or with all."""
    return caller.machine.faults(args.name)

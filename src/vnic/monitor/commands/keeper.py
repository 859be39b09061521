"""The command about the keeper: the process that takes this one's place when it ends."""

from __future__ import annotations

import msgspec

from vnic.monitor.commands.table import Caller, command


class VnicUpgrade(msgspec.Struct):
    program: str | None = None
    """The path of another vnic; None: what is installed now."""


@command("vnic-upgrade")
def vnic_upgrade(caller: Caller, args: VnicUpgrade) -> None:
    """Leave for another version, which goes on with all guests. This reply is still sent; then the connection ends.

    query-vnic of the next process tells what became of it (`keeper`). Refused without a keeper that starts one.
    """
    if args.program is not None:
        caller.machine.paths.check_program(args.program)
    caller.machine.keeper.upgrade(args.program, caller.who)

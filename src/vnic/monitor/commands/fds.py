"""Commands about descriptors that clients pass with them (qapi/misc.json): getfd, closefd and the sets."""

from __future__ import annotations

import msgspec

from vnic.monitor.commands.table import Caller, command
from vnic.monitor.passed_fds import FdsetInfo


class FdName(msgspec.Struct):
    fdname: str


@command("getfd")
def getfd(caller: Caller, args: FdName) -> None:
    """Give the descriptor that came with this command a name, for `fd=`."""
    caller.passed.name(args.fdname)


@command("closefd")
def closefd(caller: Caller, args: FdName) -> None:
    caller.passed.named.close_one(args.fdname)


class AddFd(msgspec.Struct, rename="kebab"):
    fdset_id: int | None = None
    opaque: str | None = None


class AddfdInfo(msgspec.Struct, rename="kebab"):
    fdset_id: int
    fd: int


@command("add-fd")
def add_fd(caller: Caller, args: AddFd) -> AddfdInfo:
    """Put the descriptor that came with this command into a set."""
    fd = caller.passed.take()
    return AddfdInfo(caller.machine.fds.sets.add(fd, args.fdset_id, args.opaque), fd)


class RemoveFd(msgspec.Struct, rename="kebab"):
    fdset_id: int
    fd: int | None = None


@command("remove-fd")
def remove_fd(caller: Caller, args: RemoveFd) -> None:
    caller.machine.fds.sets.remove(args.fdset_id, args.fd)


@command("query-fdsets", returns=list[FdsetInfo])
def query_fdsets(caller: Caller) -> list[FdsetInfo]:
    return caller.machine.fds.sets.info()

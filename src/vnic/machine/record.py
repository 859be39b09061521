"""The records of the machine itself: its run state, the command line that it carried out, and its restarts.

`Machine` saves and restores them; what it holds has records of its own (`backend.items`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vnic.chardev.options import ChardevOptions, NullOptions, SocketOptions, StdioOptions
from vnic.monitor.interfaces import RunState
from vnic.record import Record, require

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class MachineRecord(Record, frozen=True):
    """The state of a Machine without its items."""

    vnic: str
    """The version that wrote it."""
    pid: Count
    runstate: RunState
    restarts: Count
    """How often a process took the place of one that was killed."""
    next_order: Count
    """That of the next item."""
    settings: list[str]
    """The options that were carried out, in the form of `cli.set_up`."""

    def check_fields(self) -> None:
        require(self.runstate is not RunState.SHUTDOWN, "runstate", "is that of a machine that ends")


CHARDEVS: dict[str, type[msgspec.Struct]] = {
    "socket": SocketOptions,
    "stdio": StdioOptions,
    "null": NullOptions,
}
"""By `ItemRecord.type`."""


def chardev_type(options: ChardevOptions) -> str:
    """Of the record of a chardev with these options."""
    return next(name for name, kind in CHARDEVS.items() if isinstance(options, kind))

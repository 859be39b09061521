"""Units with `save` and `restore`, each in a non-trivial state, for tests/unit/test_round_trip.py.

A module here has one function for each unit, under `@trip("name")`; `ALL` holds them once the modules are imported.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from vnic.record import Record, RecordError
from vnic.sockets.bind import BoundPath
from vnic.sockets.listener import Listening


@dataclass
class Trip:
    """A unit that was driven into some state, and how another one takes its place."""

    unit: Any
    make: Callable[[ExitStack], Any]
    """A new unit of the same configuration; the stack ends before that of the unit."""
    restore: Callable[[Any, Any], None]
    """Give a new unit a record, with the handles that it needs."""
    observe: Callable[[Any], object]
    """What the world sees of a unit; looking changes nothing."""

    @property
    def kind(self) -> type[Record]:
        return type(self.unit.save())


def restoring(dup: Callable[[Any], Any], unit: Any) -> Callable[[Any, Any], None]:
    """Trip.restore with duplicates of the unit's handles. `dup` gives them with the sockets that a refusal closes."""

    def restore(new: Any, record: Any) -> None:
        handles, socks = dup(unit.handles)
        try:
            new.restore(record, handles)
        except RecordError:
            for sock in socks:
                sock.close()
            raise

    return restore


def same_listening(listening: Listening | None) -> Listening | None:
    """The same socket and path for another unit."""
    if listening is None:
        return None
    path = listening.path
    return Listening(listening.socket.dup(), None if path is None else BoundPath.taken_up(path.save(), None))


Builder = Callable[[ExitStack], Trip]
ALL: dict[str, Builder] = {}


def trip(name: str) -> Callable[[Builder], Builder]:
    """Enter a builder into the table; what it opens, it enters into the stack."""

    def enter(builder: Builder) -> Builder:
        assert name not in ALL
        ALL[name] = builder
        return builder

    return enter

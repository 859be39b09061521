"""What outlives this process: units that are saved with their descriptors, for the process that takes its place.

Device models, attachments, back-ends and the machine say here that their state has changed. `state.keep` stores it;
without a keeper there is NO_KEEP, which does nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from vnic.record import Record, RecordError

R = TypeVar("R", bound=Record)
H = TypeVar("H")


class NoHandles(NamedTuple):
    """The handles of a unit without descriptors."""


NO_HANDLES: Final = NoHandles()


def descriptors_of(handles: object) -> Iterator[int]:
    """The descriptors in handles, of the form that `Unit.save_kept` says, but for those of sockets."""
    if isinstance(handles, int):
        if handles >= 0:
            yield handles
    elif isinstance(handles, Mapping):
        for each in handles.values():
            yield from descriptors_of(each)
    elif isinstance(handles, Sequence) and not isinstance(handles, str):
        for each in handles:
            yield from descriptors_of(each)


class Unit(Protocol):
    """What is kept as one record with its descriptors."""

    def save_kept(self) -> tuple[Record, object]:
        """The record and its handles, of the types that `inherited` is called with: descriptors (ints; -1 for none),
        sockets, None, strings, and sequences, NamedTuples and dicts of these (see `state.handles`). The descriptors
        stay the unit's."""


class Kept(Protocol):
    """The place of one unit in the store."""

    def changed(self) -> None:
        """The state differs. It is saved with the next commit, at the end of this turn of the loop at the latest."""

    def handles_changed(self) -> None:
        """The descriptors may differ, too. They are compared only then, and when the unit is first saved."""

    def commit(self) -> None:
        """The state differs, and the keep's commit is made now."""

    def end(self) -> None:
        """The unit is gone: its record goes with the next commit, cells of its key at once."""


class Successor(Unit, Protocol):
    """A unit that can take the place of the one that the process before had at its key."""

    kept: Kept
    age_us: int
    """During `take_up`: the microseconds since the record was saved."""

    @property
    def key(self) -> str: ...

    def take_up(self, record: Any, handles: Any) -> None:
        """Go on with the inherited state. The descriptors are its own, also if it raises RecordError."""


class Keep(Protocol):
    """All that is kept, and what the process before has left."""

    @property
    def active(self) -> bool:
        """False: nothing is kept, and all calls do nothing."""

    def unit(self, key: str, unit: Unit) -> Kept:
        """Keep `unit` from now on. It takes the place of an inherited record of that key."""

    def commit(self) -> None:
        """Save all units that have changed, at once for whoever reads it after a SIGKILL. Nothing is saved before
        `settle`: a process that is killed while it restores leaves the state as it was."""

    def commit_early(self, kept: Kept) -> None:
        """Save this unit now, and nothing else, also before `settle`: what another process gave away must not be lost
        if this one is killed while it restores."""

    def cells(self, key: str, count: int) -> memoryview:
        """`count` u64 in kept memory, written directly and without a commit. They are 0, or what the process before
        left if it had as many under this key."""

    def end_cells(self, key: str) -> None:
        """The cells of that key are no longer used."""

    def keys(self) -> list[str]:
        """Those of the inherited records that were not taken yet."""

    def inherited(self, key: str, record: type[R], handles: type[H]) -> tuple[R, H] | None:
        """Take the inherited record and its handles, which are duplicates and the caller's. None: there is none, or it
        is refused; one line in the log names its key and field."""

    def refused(self, key: str, error: RecordError) -> None:
        """An inherited state is invalid, as the unit's `restore` says: one line in the log. The unit starts anew, so
        its descriptors are let go at once, unless others have them; the caller has closed its own before."""

    def lost(self) -> Collection[str]:
        """The keys of the inherited records that were refused, whose units have to start anew."""

    def age_us(self, key: str) -> int:
        """The microseconds since the inherited record of that key was saved (CLOCK_MONOTONIC); 0 if there is none."""

    def inherited_cells(self, key: str) -> memoryview | None:
        """The inherited memory of `cells`."""

    def settle(self) -> None:
        """The restoration is done, or there was none: save all units, and drop the inherited records, cells and
        descriptors that no unit has taken."""

    def letting_go(self) -> Awaitable[None] | None:
        """Saves what has changed, and waits until descriptors of units that have ended are closed everywhere: their
        ports, paths and interfaces are free then. None: there is nothing to wait for."""

    def end(self) -> None:
        """The process ends in order: drop everything. No process takes its place."""


class _NoKept:
    def changed(self) -> None: ...

    def handles_changed(self) -> None: ...

    def commit(self) -> None: ...

    def end(self) -> None: ...


NO_KEPT: Final[Kept] = _NoKept()


class _NoKeep:
    active = False

    def unit(self, key: str, unit: Unit) -> Kept:
        return NO_KEPT

    def commit(self) -> None: ...

    def commit_early(self, kept: Kept) -> None: ...

    def cells(self, key: str, count: int) -> memoryview:
        return memoryview(bytearray(8 * count)).cast("Q")

    def end_cells(self, key: str) -> None: ...

    def keys(self) -> list[str]:
        return []

    def inherited(self, key: str, record: type[R], handles: type[H]) -> tuple[R, H] | None:
        return None

    def refused(self, key: str, error: RecordError) -> None: ...

    def lost(self) -> Collection[str]:
        return ()

    def age_us(self, key: str) -> int:
        return 0

    def inherited_cells(self, key: str) -> memoryview | None:
        return None

    def settle(self) -> None: ...

    def letting_go(self) -> Awaitable[None] | None:
        return None

    def end(self) -> None: ...


NO_KEEP: Final[Keep] = _NoKeep()


def take_place(keep: Keep, unit: Successor, record: type[Record], handles: type[Any]) -> bool:
    """Have `unit` go on where the process before was killed. False: there is no record, or it was refused; nothing is
    open then, and the unit is not kept."""
    found = keep.inherited(unit.key, record, handles)
    if found is None:
        return False
    unit.age_us = keep.age_us(unit.key)
    unit.kept = keep.unit(unit.key, unit)
    try:
        unit.take_up(*found)
    except RecordError as error:
        keep.refused(unit.key, error)
        unit.kept.end()
        unit.kept = NO_KEPT
        return False
    finally:
        unit.age_us = 0
    return True

"""What outlives this process: units that are saved with their descriptors, for the process that takes its place.

Device models, attachments, back-ends and the machine say here that their state has changed. `state.keep` stores it;
without a keeper there is NO_KEEP, which does nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, TypeVar

from vnic.record import Record

R = TypeVar("R", bound=Record)
H = TypeVar("H")


class NoHandles(NamedTuple):
    """The handles of a unit without descriptors."""


NO_HANDLES: Final = NoHandles()


class Unit(Protocol):
    """What is kept as one record with its descriptors."""

    def save_kept(self) -> tuple[Record, object]:
        """The record and its handles: descriptors (ints), None, and sequences, NamedTuples and dicts of these."""


class Kept(Protocol):
    """The place of one unit in the store."""

    def changed(self) -> None:
        """The state differs. It is saved with the next commit, at the end of this turn of the loop at the latest."""

    def handles_changed(self) -> None:
        """The descriptors may differ, too. They are compared only then, and when the unit is first saved."""

    def commit(self) -> None:
        """The state differs, and the keep's commit is made now."""

    def end(self) -> None:
        """The unit is gone."""


class Keep(Protocol):
    """All that is kept, and what the process before has left."""

    @property
    def active(self) -> bool:
        """False: nothing is kept, and all calls do nothing."""

    def unit(self, key: str, unit: Unit) -> Kept:
        """Keep `unit` from now on. It takes the place of an inherited record of that key."""

    def commit(self) -> None:
        """Save all units that have changed, at once for whoever reads it after a SIGKILL."""

    def cells(self, key: str, count: int) -> memoryview:
        """`count` u64 in kept memory, written directly and without a commit."""

    def keys(self) -> list[str]:
        """Those of the inherited records."""

    def inherited(self, key: str, record: type[R], handles: type[H]) -> tuple[R, H] | None:
        """The inherited record and its handles, which are duplicates and the caller's. None: there is none, or it is
        refused; one line in the log names its key and field."""

    def age_us(self, key: str) -> int:
        """The microseconds since the inherited record of that key was saved (CLOCK_MONOTONIC); 0 if there is none."""

    def inherited_cells(self, key: str) -> memoryview | None:
        """The inherited memory of `cells`."""

    def settle(self) -> None:
        """The restoration is done: drop the inherited records and descriptors that no unit has taken."""


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

    def cells(self, key: str, count: int) -> memoryview:
        return memoryview(bytearray(8 * count)).cast("Q")

    def keys(self) -> list[str]:
        return []

    def inherited(self, key: str, record: type[R], handles: type[H]) -> tuple[R, H] | None:
        return None

    def age_us(self, key: str) -> int:
        return 0

    def inherited_cells(self, key: str) -> memoryview | None:
        return None

    def settle(self) -> None: ...


NO_KEEP: Final[Keep] = _NoKeep()

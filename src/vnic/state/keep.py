"""Keep: stores the state of units with their descriptors outside of this process, and gives the next process both.

`vnic run` makes one, from what the keeper passed, and gives it to the machine, the attachments and the back-ends. Units
say when they have changed; all changes are stored as one transaction at the end of the turn of the loop, or at once by
`commit`, before a guest or a peer sees their effect. A process that is killed leaves the state of its last transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from vnic.record import Record, RecordError, encode
from vnic.state.fdtable import FdTable
from vnic.state.handles import NO_HANDLES, NoHandles, to_names
from vnic.state.inherited import STATE_NAME, Inherited
from vnic.state.notify import NotifyError
from vnic.state.store import RecordStore, StoreError

log = logging.getLogger(__name__)

__all__ = ["NO_HANDLES", "NO_KEEP", "Keep", "Keeper", "Kept", "NoHandles", "Unit"]

R = TypeVar("R", bound=Record)
H = TypeVar("H")


class Keeper(Protocol):
    """What a Keep needs from the keeper (`Notifier` is one). Both raise NotifyError."""

    def store(self, name: str, fd: int) -> None: ...

    def remove(self, name: str) -> None: ...


class Unit(Protocol):
    """What is stored as one record, together with its descriptors."""

    def save_kept(self) -> tuple[Record, object]:
        """The record and the handles, of the types that `inherited` is called with (see `vnic.state.handles`). The
        descriptors stay the unit's."""


class Kept:
    """The place of one unit in the store."""

    __slots__ = ("_keep", "handles", "handles_are_new", "key", "names", "unit")

    def __init__(self, keep: Keep, key: str, unit: Unit) -> None:
        self._keep = keep
        self.key = key
        self.unit = unit
        self.names: set[str] = set()
        """Of the descriptors in the committed record."""
        self.handles = b""
        """In stored form."""
        self.handles_are_new = True

    def changed(self) -> None:
        """The unit's state has changed: it is stored with the next commit, at the latest when this turn of the loop
        ends."""
        if self._keep.active:
            self._keep.mark(self)

    def handles_changed(self) -> None:
        """As `changed`, and the descriptors may be others. They are looked at only then, and at first."""
        if self._keep.active:
            self.handles_are_new = True
            self._keep.mark(self)

    def end(self) -> None:
        """The unit is gone: its record is removed with the next commit, and cells of its key at once."""
        self._keep.forget(self)


class Keep:
    """The stored state of this process, and that of the process before it until `settle`."""

    def __init__(
        self,
        keeper: Keeper | None,
        files: Sequence[tuple[str, int]] = (),
        schedule: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """`files`: the names and descriptors that the keeper passed; those named vnic-… are this object's then.
        `schedule` calls at the end of the loop's turn (`loop.call_soon`); without it only `commit` stores anything.
        Without a keeper, nothing is ever stored."""
        self._schedule = schedule
        self._scheduled = False
        self._units: dict[str, Kept] = {}
        self._dirty: dict[Kept, None] = {}
        self._gone: dict[str, set[str]] = {}
        """Ended units: key → names of the descriptors in the committed record."""
        self._own_cells: set[str] = set()
        self._inherited = Inherited()
        self._store: RecordStore | None = None
        self._table: FdTable
        self.active = keeper is not None
        """False: nothing is stored, and no call does or costs anything."""
        if keeper is not None:
            try:
                self._start(keeper, files)
            except (StoreError, OSError) as error:
                self._give_up(str(error))
            except NotifyError as error:
                self._give_up(f"the keeper takes no descriptors: {error}")

    def _start(self, keeper: Keeper, files: Sequence[tuple[str, int]]) -> None:
        self._inherited = Inherited(files)
        self._store = self._inherited.open_store()
        if self._store is None:
            self._inherited.close()
            for name in self._inherited.names:
                keeper.remove(name)
            self._store = RecordStore.make(self._inherited.next_number)
            keeper.store(STATE_NAME, self._store.fd)
        self._table = FdTable(keeper, self._store.next_number)
        for name, fd in self._inherited.files():
            self._table.adopt(name, fd)

    # -- the state of this process ------------------------------------------------------------------------------

    def unit(self, key: str, unit: Unit) -> Kept:
        """Store this unit from now on, for the first time with the next commit. A unit that has the key already is
        replaced."""
        kept = Kept(self, key, unit)
        if self.active:
            before = self._units.get(key)
            kept.names = before.names if before is not None else self._gone.pop(key, set())
            if before is not None:
                self._dirty.pop(before, None)
            self._units[key] = kept
            self.mark(kept)
        return kept

    def mark(self, kept: Kept) -> None:
        """Store this one with the next commit."""
        if self._units.get(kept.key) is kept:
            self._dirty[kept] = None
            self._commit_soon()

    def forget(self, kept: Kept) -> None:
        """See Kept.end."""
        if self.active and self._units.get(kept.key) is kept:
            del self._units[kept.key]
            self._dirty.pop(kept, None)
            self._gone[kept.key] = kept.names
            self.end_cells(kept.key)
            self._commit_soon()

    def commit(self) -> None:
        """Store all changes now, as one transaction. If the keeper or memory fails, nothing is stored from then on.

        Before `settle` it does nothing: a process that is killed while it takes up another's state leaves that state.
        """
        if self.active and (self._dirty or self._gone) and not self._inherited:
            self._commit({})

    def cells(self, key: str, count: int) -> memoryview:
        """`count` numbers of 64 bits in stored memory, which the caller writes directly, without a commit. They are 0,
        or, if the process before had as many under this key, what it left there."""
        plain = memoryview(bytearray(8 * count)).cast("Q")
        store = self._store
        if not self.active or store is None:
            return plain
        try:
            found = store.cells(key)
            if found is not None and len(found) != count:
                store.free_cells(key)
                found = None
            self._own_cells.add(key)
            return store.make_cells(key, count) if found is None else found
        except StoreError as error:
            self._give_up(str(error))
            return plain

    def end_cells(self, key: str) -> None:
        """The cells of a key are no longer used, nor views of them."""
        if self.active and self._store is not None:
            self._own_cells.discard(key)
            self._store.free_cells(key)

    # -- the state of the process before ------------------------------------------------------------------------

    @property
    def restoring(self) -> bool:
        """There is a state of the process before, and `settle` was not called yet."""
        return bool(self._inherited)

    def keys(self) -> list[str]:
        """The keys of the inherited records that were not taken yet, in no order."""
        return self._inherited.keys()

    def inherited(self, key: str, record: type[R], handles: type[H]) -> tuple[R, H] | None:
        """Take the record and the handles of a unit of the process before. The descriptors are the caller's then.

        None if there is none, or if it is invalid: then the log has one line that names the key and the field."""
        try:
            return self._inherited.take(key, record, handles)
        except RecordError as error:
            self.refused(key, error)
            return None

    def inherited_cells(self, key: str) -> memoryview | None:
        """The cells of the process before; `cells` gives the same ones if their count is the same."""
        return self._store.cells(key) if self._inherited and self._store is not None else None

    def refused(self, key: str, error: RecordError) -> None:
        """Log that the inherited state of a unit is invalid, also where its `restore` says so."""
        log.error("%s: its state cannot be restored, it starts anew: %s", key, error)

    def settle(self) -> None:
        """The restoration is complete: forget all inherited records and descriptors that were not taken, and all cells
        that were not asked for again, and store the state of this process."""
        if not self._inherited:
            return
        self._inherited.close()
        store = self._store
        if not self.active or store is None:
            return
        self._commit({key: None for key in store.names if key not in self._units})
        try:
            for key in store.cell_keys():
                if key not in self._own_cells:
                    store.free_cells(key)
            self._table.sweep()
        except (StoreError, NotifyError) as error:
            self._give_up(str(error))

    # -- storing ------------------------------------------------------------------------------------------------

    def _commit_soon(self) -> None:
        if self._schedule is not None and not self._scheduled:
            self._scheduled = True
            self._schedule(self._turn_ends)

    def _turn_ends(self) -> None:
        self._scheduled = False
        self.commit()

    def _commit(self, changes: dict[str, bytes | None]) -> None:
        dirty, self._dirty = self._dirty, {}
        gone, self._gone = self._gone, {}
        names = {}
        changes.update(dict.fromkeys(gone))
        try:
            for kept in dirty:
                changes[kept.key], names[kept] = self._saved(kept)
            assert self._store is not None
            self._store.commit(changes)
            for each in names.values():
                self._table.use(each)
            for kept, each in names.items():
                gone[kept.key], kept.names = kept.names, each
            for before in gone.values():
                self._table.release(before)
        except StoreError as error:
            self._give_up(str(error))
        except NotifyError as error:
            self._give_up(f"the keeper takes no descriptors: {error}")

    def _saved(self, kept: Kept) -> tuple[bytes | None, set[str]]:
        """The stored form of a unit and the names in it. A unit that cannot be saved loses its record, so that the
        next process makes it anew rather than wrong."""
        try:
            record, handles = kept.unit.save_kept()
            state = encode(record)
            names = kept.names
            if kept.handles_are_new:
                names = set()
                kept.handles = msgspec.json.encode(to_names(handles, self._naming(names)))
                kept.handles_are_new = False
        except NotifyError:
            raise
        except Exception as error:  # whatever is wrong with it, the other units are stored
            log.error("%s: its state cannot be stored: %s", kept.key, error)
            kept.handles_are_new = True
            return None, set()
        return kept.handles + b"\n" + state, names

    def _naming(self, names: set[str]) -> Callable[[int], str]:
        """The table's names, which are also added to `names`."""

        def name_of(fd: int) -> str:
            name = self._table.name(fd)
            names.add(name)
            return name

        return name_of

    def _give_up(self, why: str) -> None:
        log.error("the state is no longer kept, a restart will be seen by guests: %s", why)
        self.active = False
        if self._store is not None:
            self._store.discard()
        self._dirty.clear()
        self._gone.clear()


NO_KEEP: Final = Keep(None)
"""Stores nothing."""

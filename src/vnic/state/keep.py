"""StoredKeep: stores units with their descriptors outside of this process, and gives the next process both.

`vnic run` makes one, from what the keeper passed, and gives it to the machine, the attachments and the back-ends. Units
say when they have changed; all changes are stored as one transaction at the end of the turn of the loop, or at once by
`commit`, before a guest or a peer sees their effect. A process that is killed leaves the state of its last transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol, TypeVar

import msgspec

from vnic.keep import Keep, Kept, Unit
from vnic.record import Record, RecordError, encode
from vnic.state.fdtable import MOST_FILES, FdTable
from vnic.state.handles import to_names
from vnic.state.inherited import STATE_NAME, Inherited, stored_form
from vnic.state.notify import NotifyError, has_ended, wait_for_end
from vnic.state.store import RecordStore, StoreError

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Record)
H = TypeVar("H")


class Keeper(Protocol):
    """What a Keep needs from the keeper (`Notifier` is one). All raise NotifyError."""

    def store(self, name: str, fd: int) -> None: ...

    def remove(self, name: str) -> None: ...

    def barrier(self) -> int: ...


class StoredUnit(Kept):
    """The place of one unit in the store."""

    __slots__ = ("_keep", "failed", "handles", "handles_are_new", "key", "names", "unit")

    def __init__(self, keep: StoredKeep, key: str, unit: Unit) -> None:
        self._keep = keep
        self.key = key
        self.unit = unit
        self.names: set[str] = set()
        """Of the descriptors in the committed record."""
        self.handles = b""
        """In stored form."""
        self.handles_are_new = True
        self.failed = False
        """It could not be saved last time, and the log says so."""

    def changed(self) -> None:
        if self._keep.active:
            self._keep.mark(self)

    def handles_changed(self) -> None:
        if self._keep.active:
            self.handles_are_new = True
            self._keep.mark(self)

    def commit(self) -> None:
        if self._keep.active:
            self._keep.mark(self)
            self._keep.commit()

    def end(self) -> None:
        self._keep.forget(self)


class StoredKeep(Keep):
    """The stored state of this process, and that of the process before it until `settle`."""

    def __init__(
        self,
        keeper: Keeper,
        files: Sequence[tuple[str, int]] = (),
        schedule: Callable[[Callable[[], None]], object] | None = None,
        most: int = MOST_FILES,
    ) -> None:
        """`files`: the names and descriptors that the keeper passed; those of a Keep are this object's then.
        `schedule` calls at the end of the loop's turn (`loop.call_soon`); without it only `commit` stores anything.
        `most`: the descriptors that the keeper takes."""
        self._schedule = schedule
        self._scheduled = False
        self._units: dict[str, StoredUnit] = {}
        self._dirty: dict[StoredUnit, None] = {}
        self._gone: dict[str, set[str]] = {}
        """Ended units: key → names of the descriptors in the committed record."""
        self._own_cells: set[str] = set()
        self._inherited = Inherited(files)
        self._store: RecordStore | None = None
        self._table: FdTable | None = None
        self._keeper = keeper
        self._most = most
        self._settled = False
        self._let_go = 0
        """The removals that the keeper has confirmed."""
        self._active = True
        try:
            self._start()
        except (StoreError, OSError) as error:
            self._give_up(str(error))
        except NotifyError as error:
            self._give_up(f"the keeper does not answer: {error}", keeper_reads=False)

    def _start(self) -> None:
        keeper = self._keeper
        self._store = self._inherited.open_store()
        if self._store is None:
            self._inherited.close()
            for name in self._inherited.names:
                keeper.remove(name)
            if self._inherited.names:
                wait_for_end(keeper.barrier())
            self._store = RecordStore.make()
            keeper.store(STATE_NAME, self._store.fd)
        self._store.numbers_from(self._inherited.next_number)
        self._table = FdTable(keeper, self._store.next_number, self._most)
        for name, fd in self._inherited.files():
            self._table.adopt(name, fd)
        self._keeper_lets_go(self._inherited.refuse_unclaimed())

    def _keeper_lets_go(self, names: set[str]) -> None:
        """At once, since the unit that had these files starts anew with the same paths, ports and interfaces. Raises
        NotifyError."""
        if names and self._table is not None:
            self._table.drop_unused(names)
            wait_for_end(self._keeper.barrier())

    @property
    def active(self) -> bool:
        return self._active

    # -- the state of this process ------------------------------------------------------------------------------

    def unit(self, key: str, unit: Unit) -> Kept:
        kept = StoredUnit(self, key, unit)
        if self._active:
            before = self._units.get(key)
            kept.names = before.names if before is not None else self._gone.pop(key, set())
            if before is not None:
                self._dirty.pop(before, None)
            self._units[key] = kept
            self.mark(kept)
        return kept

    def mark(self, kept: StoredUnit) -> None:
        """Store this one with the next commit."""
        if self._units.get(kept.key) is kept:
            self._dirty[kept] = None
            self._commit_soon()

    def forget(self, kept: StoredUnit) -> None:
        """See Kept.end."""
        if self._active and self._units.get(kept.key) is kept:
            del self._units[kept.key]
            self._dirty.pop(kept, None)
            self._gone[kept.key] = kept.names
            self.end_cells(kept.key)
            self._commit_soon()

    def commit(self) -> None:
        """Store all changes now, as one transaction. Before `settle` nothing is stored: a process that is killed while
        it takes up the state of another leaves that state. If the keeper or memory fails, keeping ends."""
        if self._active and self._settled and (self._dirty or self._gone):
            self._commit({})

    def commit_early(self, kept: Kept) -> None:
        if not self._active or not isinstance(kept, StoredUnit) or self._units.get(kept.key) is not kept:
            return
        others, gone = self._dirty, self._gone
        others.pop(kept, None)
        self._dirty, self._gone = {kept: None}, {}
        self._commit({})
        if self._active:
            self._dirty, self._gone = {**others, **self._dirty}, {**gone, **self._gone}

    def cells(self, key: str, count: int) -> memoryview:
        plain = memoryview(bytearray(8 * count)).cast("Q")
        store = self._store
        if not self._active or store is None:
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
        if self._active and self._store is not None:
            self._own_cells.discard(key)
            try:
                self._store.free_cells(key)
            except StoreError as error:
                self._give_up(str(error))

    # -- the state of the process before ------------------------------------------------------------------------

    def keys(self) -> list[str]:
        return self._inherited.keys()

    def inherited(self, key: str, record: type[R], handles: type[H]) -> tuple[R, H] | None:
        try:
            return self._inherited.take(key, record, handles)
        except RecordError as error:
            self.refused(key, error)
            return None

    def lost(self) -> Collection[str]:
        return self._inherited.lost

    def age_us(self, key: str) -> int:
        return self._inherited.age_us(key)

    def inherited_cells(self, key: str) -> memoryview | None:
        return None if self._settled or self._store is None else self._store.cells(key)

    def refused(self, key: str, error: RecordError) -> None:
        log.error("%s: its state cannot be restored, it starts anew: %s", key, error)
        names = self._inherited.refuse(key)
        if not self._active or self._settled:
            return
        try:
            self._keeper_lets_go(names)
        except NotifyError as error_of_keeper:
            self._give_up(f"the keeper does not answer: {error_of_keeper}", keeper_reads=False)

    def settle(self) -> None:
        if self._settled:
            return
        self._settled = True
        self._inherited.close()
        store = self._store
        if not self._active or store is None:
            return
        self._commit({key: None for key in store.names if key not in self._units})
        try:
            for key in store.cell_keys():
                if self._active and key not in self._own_cells:
                    store.free_cells(key)
            if self._active and self._table is not None:
                self._table.sweep()
        except StoreError as error:
            self._give_up(str(error))
        except NotifyError as error:
            self._give_up(f"the keeper does not answer: {error}", keeper_reads=False)

    def letting_go(self) -> Awaitable[None] | None:
        self.commit()
        if not self._active or self._table is None or self._table.removals == self._let_go:
            return None
        removals = self._table.removals
        try:
            fd = self._keeper.barrier()
        except NotifyError as error:
            self._give_up(f"the keeper does not answer: {error}", keeper_reads=False)
            return None
        return self._confirmed(fd, removals)

    async def _confirmed(self, fd: int, removals: int) -> None:
        await has_ended(fd)
        self._let_go = max(self._let_go, removals)

    def end(self) -> None:
        if not self._active or self._store is None:
            return
        self._active = False
        self._store.discard()
        self._inherited.close()
        self._keeper_forgets()

    def _keeper_forgets(self) -> None:
        """It closes all that it has, so that peers see the end of this process."""
        try:
            if self._table is not None:
                self._table.clear()
            self._keeper.remove(STATE_NAME)
        except NotifyError:
            pass  # it is gone, and all that it had with it

    # -- storing ------------------------------------------------------------------------------------------------

    def _commit_soon(self) -> None:
        if self._schedule is not None and not self._scheduled:
            self._scheduled = True
            self._schedule(self._turn_ends)

    def _turn_ends(self) -> None:
        self._scheduled = False
        self.commit()

    def _commit(self, changes: dict[str, bytes | None]) -> None:
        assert self._store is not None
        assert self._table is not None
        dirty, self._dirty = self._dirty, {}
        gone, self._gone = self._gone, {}
        names: dict[StoredUnit, set[str]] = {}
        unsaved: set[str] = set()
        changes.update(dict.fromkeys(gone))
        try:
            for kept in dirty:
                changes[kept.key], names[kept] = self._saved(kept, self._table, unsaved)
            self._store.commit(changes)
            for each in names.values():
                self._table.use(each)
            self._table.drop_unused(unsaved)
            for kept, each in names.items():
                gone[kept.key], kept.names = kept.names, each
            for before in gone.values():
                self._table.release(before)
        except StoreError as error:
            self._give_up(str(error))
        except NotifyError as error:
            self._give_up(f"the keeper does not answer: {error}", keeper_reads=False)

    def _saved(self, kept: StoredUnit, table: FdTable, unsaved: set[str]) -> tuple[bytes | None, set[str]]:
        """The stored form of a unit and the names of its descriptors, or of those of one that cannot be saved in
        `unsaved`. A unit that cannot be saved loses its record, so that the
        next process makes it anew rather than wrong."""
        names = kept.names
        try:
            record, handles = kept.unit.save_kept()
            state = encode(record)
            if kept.handles_are_new:
                names = set()
                kept.handles = msgspec.json.encode(to_names(handles, _naming(table, names)))
                kept.handles_are_new = False
        except NotifyError:
            raise
        except Exception as error:  # whatever is wrong with it, the other units are stored
            if not kept.failed:
                log.error("%s: its state cannot be stored: %s", kept.key, error)
            kept.failed = kept.handles_are_new = True
            unsaved |= names
            return None, set()
        kept.failed = False
        return stored_form(kept.handles, state), names

    def _give_up(self, why: str, *, keeper_reads: bool = True) -> None:
        log.error("the state is no longer kept, a restart will be seen by guests: %s", why)
        self._active = False
        if self._store is not None:
            self._store.discard()
        self._dirty.clear()
        self._gone.clear()
        if keeper_reads:
            self._keeper_forgets()


def _naming(table: FdTable, names: set[str]) -> Callable[[int], str]:
    """The table's names, which are also added to `names`."""

    def name_of(fd: int) -> str:
        name = table.name(fd)
        names.add(name)
        return name

    return name_of

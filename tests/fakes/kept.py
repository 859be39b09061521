"""A keep of one process: what it was told last, with duplicates of the descriptors, for the unit that comes next."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from vnic.keep import Kept, Unit
from vnic.record import Record, RecordError, decode, encode

R = TypeVar("R", bound=Record)
H = TypeVar("H")


def mapped(tree: Any, change: Callable[[int], int]) -> Any:
    """The same handles with other descriptors."""
    if tree is None:
        return None
    if isinstance(tree, int):
        return change(tree)
    if isinstance(tree, dict):
        return {key: mapped(each, change) for key, each in tree.items()}
    parts = [mapped(each, change) for each in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else parts


def close_all(tree: Any) -> None:
    fds: list[int] = []
    mapped(tree, lambda fd: fds.append(fd) or fd)  # type: ignore[func-returns-value]
    for fd in fds:
        os.close(fd)


class FakeKept:
    """Kept, which saves when it is told to commit."""

    def __init__(self, keep: FakeKeep, key: str, unit: Unit) -> None:
        self._keep = keep
        self._key = key
        self.unit = unit
        self.dirty = True

    def changed(self) -> None:
        self.dirty = True

    handles_changed = changed

    def commit(self) -> None:
        self.dirty = True
        self._keep.commit()

    def end(self) -> None:
        self._keep.units.pop(self._key, None)
        self._keep.gone.append(self._key)


class FakeKeep:
    """Keep. `forget_process` is what a SIGKILL leaves of it."""

    active = True

    def __init__(self) -> None:
        self.units: dict[str, FakeKept] = {}
        self.gone: list[str] = []
        self.kept: dict[str, tuple[bytes, Any]] = {}
        self.commits = 0

    def unit(self, key: str, unit: Unit) -> FakeKept:
        self.units[key] = FakeKept(self, key, unit)
        return self.units[key]

    def commit(self) -> None:
        self.commits += 1
        for key in self.gone:
            if key not in self.units and key in self.kept:
                close_all(self.kept.pop(key)[1])
        self.gone.clear()
        for key, kept in self.units.items():
            if kept.dirty:
                kept.dirty = False
                record, handles = kept.unit.save_kept()
                new = encode(record), mapped(handles, os.dup)
                old = self.kept.get(key)
                self.kept[key] = new
                if old is not None:
                    close_all(old[1])

    def forget_process(self) -> None:
        self.units.clear()
        self.gone.clear()

    def close(self) -> None:
        self.forget_process()
        for _, handles in self.kept.values():
            close_all(handles)
        self.kept.clear()

    def cells(self, key: str, count: int) -> memoryview:
        return memoryview(bytearray(8 * count)).cast("Q")

    def keys(self) -> list[str]:
        return list(self.kept)

    def inherited(self, key: str, record: type[R], handles: type[H]) -> tuple[R, H] | None:
        if key not in self.kept:
            return None
        data, held = self.kept[key]
        return decode(record, data), mapped(held, os.dup)

    def lost(self) -> Collection[str]:
        return ()

    def inherited_cells(self, key: str) -> memoryview | None:
        return None

    def commit_early(self, kept: Kept) -> None: ...

    def end_cells(self, key: str) -> None: ...

    def refused(self, key: str, error: RecordError) -> None: ...

    def end(self) -> None: ...

    def age_us(self, key: str) -> int:
        return 0

    def settle(self) -> None: ...

    def letting_go(self) -> None: ...

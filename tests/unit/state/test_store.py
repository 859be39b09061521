"""RecordStore: transactions are whole, damage is named and never used, and a commit costs what it changes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vnic.state import entries
from vnic.state import store as module
from vnic.state.store import FIRST_HALF_BYTES, HEADER_BYTES, RecordStore, StoreError

KEYS = st.sampled_from(["machine", "nic/a", "nic/b", "netdev/ü", "vm/a", "k" * 100])
DATA = st.one_of(st.binary(max_size=200), st.integers(0, 100_000).map(lambda size: b"x" * size))


@contextmanager
def made() -> Iterator[RecordStore]:
    store = RecordStore.make()
    try:
        yield store
    finally:
        store.close()


@contextmanager
def opened(store: RecordStore) -> Iterator[RecordStore]:
    """As the next process does."""
    fd = os.dup(store.fd)
    try:
        after = RecordStore.open(fd)
    except StoreError:
        os.close(fd)
        raise
    try:
        yield after
    finally:
        after.close()


def content(store: RecordStore) -> dict[str, bytes]:
    return {key: store.get(key) or b"" for key in store.names}


class AgainstADict(RuleBasedStateMachine):
    """A store and its successors hold what a dict would."""

    def __init__(self) -> None:
        super().__init__()
        self.store = RecordStore.make()
        self.expected: dict[str, bytes] = {}
        self.numbers: set[int] = set()
        self.cells: dict[str, tuple[memoryview, int]] = {}

    @rule(changes=st.dictionaries(KEYS, st.none() | DATA, max_size=4))
    def commit(self, changes: dict[str, bytes | None]) -> None:
        self.store.commit(changes)
        for key, data in changes.items():
            if data is None:
                self.expected.pop(key, None)
            else:
                self.expected[key] = data

    @rule()
    def number(self) -> None:
        number = self.store.next_number()
        assert number not in self.numbers
        self.numbers.add(number)

    @rule(key=KEYS, count=st.integers(1, 40), value=st.integers(0, 2**64 - 1))
    def cell(self, key: str, count: int, value: int) -> None:
        if key in self.cells:
            del self.cells[key]
            self.store.free_cells(key)
        else:
            view = self.store.make_cells(key, count)
            assert list(view) == [0] * count
            view[count - 1] = value
            self.cells[key] = view, value

    @rule()
    def another_process(self) -> None:
        before, self.store = self.store, RecordStore.open(os.dup(self.store.fd))
        before.close()
        assert not self.store.refused
        for key, (old, value) in self.cells.items():
            view = self.store.cells(key)
            assert view is not None
            assert len(view) == len(old)
            self.cells[key] = view, value

    @invariant()
    def agrees(self) -> None:
        assert content(self.store) == self.expected
        for view, value in self.cells.values():
            assert view[len(view) - 1] == value

    def teardown(self) -> None:
        self.store.close()


AgainstADict.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAgainstADict = AgainstADict.TestCase


# -- damage --------------------------------------------------------------------------------------------------------


def log_range(store: RecordStore) -> tuple[int, int]:
    """The bytes of the log in the file."""
    offset = store._word(module._HALVES + 2 * (store._generation & 1), "offset")
    return offset, offset + store._end


def entry_range(store: RecordStore, key: str) -> tuple[int, int]:
    """The bytes of a key's newest entry in the file."""
    start, size = store._places[key]
    name = key.encode()
    first = log_range(store)[0] + start - (entries.data_start(0, name))
    return first, first + entries.size_of(name, size)


def flip(store: RecordStore, at: int, mask: int) -> None:
    os.pwrite(store.fd, bytes([os.pread(store.fd, 1, at)[0] ^ mask]), at)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_entry_is_refused_by_its_key_and_the_others_are_intact(data: st.DataObject) -> None:
    with made() as store:
        for number in range(3):
            store.commit({f"nic/{name}": b"%d of %s " % (number, name.encode()) * 9 for name in "abcdef"})
        before = content(store)
        key = data.draw(st.sampled_from(sorted(before)))
        first, after = entry_range(store, key)
        for _ in range(
            data.draw(st.integers(1, 3))
        ):  # near each other: an entry has two ends, and one is left
            at = data.draw(st.integers(first, first + (after - first) // 2 - 1))
            flip(store, at, data.draw(st.integers(1, 255)))
        with opened(store) as found:
            if content(found) == before:
                return  # flipped back, or in the padding
            assert list(found.refused) == [key]
            assert content(found) == {each: old for each, old in before.items() if each != key}
            found.commit({key: b"anew"})
        with opened(store) as again:
            assert not again.refused
            assert content(again) == {**before, key: b"anew"}


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_no_damage_brings_another_value(data: st.DataObject) -> None:
    """Bytes are changed, copied elsewhere or swapped, anywhere: a key has its last value, or none."""
    with made() as store:
        for number in range(data.draw(st.integers(1, 12))):
            names = data.draw(st.lists(st.sampled_from("abcdef"), unique=True))
            changes: dict[str, bytes | None] = {
                f"nic/{name}": b"%d " % number * data.draw(st.integers(1, 30)) for name in names
            }
            if data.draw(st.booleans()):
                changes["nic/z"] = None if "nic/z" in store.names else b"here"
            if data.draw(st.integers(0, 9)) == 0:
                store._change_halves(0)
            store.commit(changes)
        before = content(store)
        first, end = log_range(store)
        places = st.integers(0, HEADER_BYTES // 16) | st.integers(first, max(first, end - 1))
        for _ in range(data.draw(st.integers(1, 4))):
            one, other = data.draw(places), data.draw(places)
            size = data.draw(st.sampled_from([1, 8, 64, 200]))
            how = data.draw(st.sampled_from(["flip", "copy", "swap", "zero"]))
            left, right = os.pread(store.fd, size, one), os.pread(store.fd, size, other)
            if how == "flip":
                flip(store, one, data.draw(st.integers(1, 255)))
            elif how == "zero":
                os.pwrite(store.fd, bytes(size), one)
            else:
                os.pwrite(store.fd, left, other)
            if how == "swap":
                os.pwrite(store.fd, right, one)
        try:
            with opened(store) as found:
                for key, value in content(found).items():
                    assert value == before.get(key)
        except StoreError:
            return  # the header is damaged


@given(size=st.integers(0, HEADER_BYTES + FIRST_HALF_BYTES + 100), data=st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_a_file_of_another_kind_is_refused(size: int, data: bytes) -> None:
    with made() as store:
        store.commit({"nic/a": b"1"})
        fd = os.memfd_create("short", os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            os.pwrite(fd, os.pread(store.fd, size, 0), 0)
            os.pwrite(fd, data, HEADER_BYTES)
            fcntl.fcntl(fd, module._F_ADD_SEALS, module._F_SEAL_SHRINK)
            if size < HEADER_BYTES + FIRST_HALF_BYTES:
                with pytest.raises(StoreError):
                    RecordStore.open(fd)
        finally:
            os.close(fd)


def test_a_file_that_could_shrink_is_refused() -> None:
    """A read behind its end would kill the process."""
    fd = os.memfd_create("unsealed")
    os.ftruncate(fd, 1 << 20)
    with pytest.raises(StoreError, match="sealed"):
        RecordStore.open(fd)
    os.close(fd)
    read, write = os.pipe()
    with pytest.raises(StoreError, match="sealed"):
        RecordStore.open(read)
    os.close(read)
    os.close(write)


def test_a_store_that_was_discarded_is_not_opened_again() -> None:
    with made() as store:
        store.commit({"nic/a": b"1"})
        store.discard()
        with pytest.raises(StoreError), opened(store):
            pass


# -- growth and cost -----------------------------------------------------------------------------------------------


def test_the_file_does_not_grow_with_the_number_of_commits() -> None:
    with made() as store:
        for number in range(20_000):
            store.commit({f"nic/{number % 7}": b"%d" % number * 20})
        assert os.fstat(store.fd).st_size <= HEADER_BYTES + 2 * FIRST_HALF_BYTES


def test_a_record_of_many_megabytes_is_stored_and_its_memory_given_back() -> None:
    with made() as store:
        big = os.urandom(20_000_000)
        store.commit({"vm/big": big, "nic/a": b"1"})
        with opened(store) as found:
            assert found.get("vm/big") == big
        store.commit({"vm/big": None})
        for number in range(200):
            store.commit({"nic/a": b"%d" % number * 100_000})
        assert store.get("nic/a") == b"199" * 100_000


def test_what_is_too_large_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 4 * FIRST_HALF_BYTES)
    with made() as store:
        store.commit({"nic/a": b"1"})
        with pytest.raises(StoreError, match="too large"):
            store.commit({"nic/a": b"2", "nic/b": bytes(8 * FIRST_HALF_BYTES)})
        with pytest.raises(StoreError, match="too long"):
            store.commit({"nic/a": b"2", "k" * 1000: b""})
        with opened(store) as found:
            assert content(found) == {"nic/a": b"1"}
        store.commit({"nic/a": b"3"})
        assert content(store) == {"nic/a": b"3"}


def test_a_commit_costs_no_more_with_many_other_keys() -> None:
    def cost(others: int) -> float:
        with made() as store:
            store.commit({f"nic/{number}": bytes(2000) for number in range(others)})
            store.commit({"x": bytes(2000)})
            best = 1.0
            for number in range(50):
                begun = time.perf_counter()
                store.commit({"x": bytes([number]) * 2000})
                best = min(best, time.perf_counter() - begun)
            return best

    assert cost(3000) < 5 * cost(1) + 50e-6


def test_cells_of_a_key_do_not_touch_those_of_another() -> None:
    with made() as store:
        views = {number: store.make_cells(f"nic/{number}", 1 + number % 20) for number in range(2000)}
        for number, view in views.items():
            for at in range(len(view)):
                view[at] = number << 32 | at
        with opened(store) as found:
            for number in views:
                view = found.cells(f"nic/{number}") or memoryview(b"")
                assert list(view) == [number << 32 | at for at in range(1 + number % 20)]
            found.free_cells("nic/3")
            taken = found.make_cells("new", 2)
            assert list(taken) == [0, 0]
            assert list(found.cells("nic/4") or ()) == [4 << 32 | at for at in range(5)]


def test_more_cells_than_a_block_has_are_refused() -> None:
    with made() as store, pytest.raises(ValueError, match="cells"):
        store.make_cells("nic/a", 1 << 20)

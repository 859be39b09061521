"""A process that is killed at any instruction leaves whole transactions, and descriptors that fit them."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from tests.fakes.keeper import FakeKeeper

from vnic.record import Record
from vnic.state.keep import StoredKeep
from vnic.state.notify import Notifier
from vnic.state.store import RecordStore

KILLS = 100
NAMES = ("a", "b", "c", "d")


def killed_at_random(work: Callable[[Callable[[], None]], None], rng: random.Random) -> None:
    """Run `work(started)` in a process that is killed up to 10 ms after it called `started`."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read)
            work(lambda: os.close(write))
        finally:
            os._exit(1)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    time.sleep(rng.random() * 0.01)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_every_transaction_is_whole() -> None:
    """Each one sets all keys to its number, with data of very different sizes; halves change often."""
    rng = random.Random(1)
    store = RecordStore.make()
    last = -1

    def work(started: Callable[[], None]) -> None:
        mine = RecordStore.open(os.dup(store.fd))
        number = last
        started()
        while True:
            number += 1
            size = (number * 7919) % 3000
            mine.commit({name: b"%d " % number + bytes(size * (at + 1)) for at, name in enumerate(NAMES)})

    for _ in range(KILLS):
        killed_at_random(work, rng)
        found = RecordStore.open(os.dup(store.fd))
        assert not found.refused
        values = {int((found.get(name) or b"-1").split(b" ")[0]) for name in found.names}
        assert len(values) <= 1
        number = max(values, default=-1)
        assert number >= last
        last = number
        found.close()
    store.close()
    assert last > KILLS // 10


class PairRecord(Record, frozen=True):
    number: int


class PairHandles(NamedTuple):
    files: list[int]


class Pair:
    """A unit whose files say its number."""

    def __init__(self) -> None:
        self.number = -1
        self.files: list[int] = []

    def renew(self) -> None:
        for fd in self.files:
            os.close(fd)
        self.number += 1
        self.files = [os.memfd_create("n") for _ in range(1 + self.number % 3)]
        for fd in self.files:
            os.pwrite(fd, b"%d" % self.number, 0)

    def save_kept(self) -> tuple[Record, object]:
        return PairRecord(number=self.number), PairHandles(self.files)


@pytest.fixture
def keeper() -> Iterator[FakeKeeper]:
    keeper = FakeKeeper()
    yield keeper
    keeper.close()


def test_a_record_always_has_its_descriptors(keeper: FakeKeeper) -> None:
    """Also where the restoration is killed. What the keeper has besides is removed by the next process."""
    rng = random.Random(2)

    def take(keep: StoredKeep) -> dict[str, Pair]:
        pairs = {}
        for name in NAMES:
            pair = pairs[name] = Pair()
            found = keep.inherited(name, PairRecord, PairHandles)
            if found is not None:
                pair.number, pair.files = found[0].number, found[1].files
            for fd in pair.files:
                assert os.pread(fd, 20, 0) == b"%d" % pair.number
        assert len({pair.number for pair in pairs.values()}) == 1
        return pairs

    def work(started: Callable[[], None]) -> None:
        started()
        files = [(name, os.dup(fd)) for name, fd in keeper.files]
        keep = StoredKeep(Notifier(keeper.address), files)
        pairs = take(keep)
        kept = {name: keep.unit(name, pair) for name, pair in pairs.items()}
        keep.settle()
        while True:
            for name, pair in pairs.items():
                pair.renew()
                kept[name].handles_changed()
            keep.commit()

    last = -1
    for _ in range(KILLS):
        run_with_keeper(keeper, work, rng)
        keep = keeper.start()
        pairs = take(keep)
        assert pairs["a"].number >= last
        last = pairs["a"].number
        for name, pair in pairs.items():
            keep.unit(name, pair)
        keep.settle()
        assert len(keeper.files) == 1 + sum(len(pair.files) for pair in pairs.values())
        for pair in pairs.values():
            for fd in pair.files:
                os.close(fd)
        keep.commit()
        assert keep._store is not None
        keep._store.close()
    assert last > 5


def run_with_keeper(
    keeper: FakeKeeper, work: Callable[[Callable[[], None]], None], rng: random.Random
) -> None:
    """As killed_at_random, while the keeper reads."""
    pid = os.fork()
    if not pid:
        try:
            work(lambda: None)
        finally:
            os._exit(1)
    end = time.monotonic() + 0.002 + rng.random() * 0.03
    while time.monotonic() < end:
        keeper.read()
        time.sleep(0.0001)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), os.WEXITSTATUS(status)
    keeper.read()
